"""What is asked of the fleet: requests of two production traces.

Conversations with long prompts (the Mooncake trace) and code completions with short answers (the Azure trace), which
come at different times, so that the mix of prefill and decode changes over the day.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

_TRACE_BLOCK_TOKENS = 512

Kind = Literal["conversation", "code"]


@dataclass(frozen=True, slots=True)
class Slo:
    ttft_s: float
    tokens_per_s: float


SLOS: dict[Kind, Slo] = {"conversation": Slo(2.0, 50.0), "code": Slo(0.5, 30.0)}


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of one request. ``cached_tokens`` of the prompt were sent before by another request of the trace."""

    kind: Kind
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int

    @property
    def computed_tokens(self) -> int:
        return self.prompt_tokens - self.cached_tokens


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    lengths: Lengths


def conversations(file: Path) -> list[Arrival]:
    """From Mooncake's form: JSON lines with milliseconds and the ids of 512-token prefix blocks."""
    seen: set[int] = set()
    found = []
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        ids = entry["hash_ids"]
        known = next((index for index, block in enumerate(ids) if block not in seen), len(ids))
        seen.update(ids)
        prompt = entry["input_length"]
        cached = min(known * _TRACE_BLOCK_TOKENS, prompt - 1)
        lengths = Lengths("conversation", prompt, cached, max(1, entry["output_length"]))
        found.append(Arrival(entry["timestamp"] / 1000, lengths))
    return found


def completions(file: Path) -> list[Arrival]:
    """From Azure's form: CSV with TIMESTAMP, ContextTokens and GeneratedTokens; times count from the first request."""
    with file.open() as rows:
        entries = list(csv.DictReader(rows))
    # Seven digits of a second, of which Python reads six.
    times_s = [datetime.fromisoformat(entry["TIMESTAMP"][:26]).timestamp() for entry in entries]
    return [
        Arrival(
            at_s - times_s[0], Lengths("code", int(entry["ContextTokens"]), 0, max(1, int(entry["GeneratedTokens"])))
        )
        for at_s, entry in zip(times_s, entries, strict=True)
    ]
