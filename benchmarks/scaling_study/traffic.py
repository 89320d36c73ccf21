"""A day of requests: lengths from production traces, times from a curve of the day, compressed.

Two kinds: conversations with long prompts (the Mooncake trace), which peak in the evening, and code completions with
short answers (the Azure trace), which peak in working hours. So the mix of prefill and decode changes over the day.
"""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

_TRACE_BLOCK_TOKENS = 512
DAY_H = 24.0


@dataclass(frozen=True, slots=True)
class Slo:
    ttft_s: float
    tokens_per_s: float


SLOS = {"conversation": Slo(2.0, 50.0), "code": Slo(0.5, 30.0)}


@dataclass(frozen=True, slots=True)
class Lengths:
    """Of one request. ``cached_tokens`` of the prompt were sent before by another request of the trace."""

    kind: str
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Arrival:
    at_s: float
    lengths: Lengths


def conversations(file: Path) -> list[Lengths]:
    """From Mooncake's form: JSON lines with the ids of 512-token prefix blocks."""
    seen: set[int] = set()
    found = []
    for line in file.read_text().splitlines():
        entry = json.loads(line)
        ids = entry["hash_ids"]
        known = next((index for index, block in enumerate(ids) if block not in seen), len(ids))
        seen.update(ids)
        prompt = entry["input_length"]
        cached = min(known * _TRACE_BLOCK_TOKENS, prompt - 1)
        found.append(Lengths("conversation", prompt, cached, max(1, entry["output_length"])))
    return found


def completions(file: Path) -> list[Lengths]:
    """From Azure's form: CSV with ContextTokens and GeneratedTokens."""
    with file.open() as rows:
        return [
            Lengths("code", int(row["ContextTokens"]), 0, max(1, int(row["GeneratedTokens"])))
            for row in csv.DictReader(rows)
        ]


@dataclass(frozen=True, slots=True)
class Day:
    """``seconds`` is what a day is compressed to; the peaks are requests a second of each kind."""

    seconds: float
    conversation_peak: float
    code_peak: float
    seed: int = 1

    def rates(self, at_s: float) -> dict[str, float]:
        hour = at_s / self.seconds * DAY_H
        return {
            "conversation": self.conversation_peak * (0.15 + 0.85 * _bump(hour, centre=20.0, width_h=4.0)),
            "code": self.code_peak * (0.03 + 0.97 * _bump(hour, centre=12.0, width_h=4.0)),
        }

    def arrivals(self, traces: dict[str, list[Lengths]]) -> Iterator[Arrival]:
        """In order of time: a Poisson process whose rate follows the curve."""
        rng = random.Random(self.seed)
        sources = {kind: cycle(lengths) for kind, lengths in traces.items()}
        most = self.conversation_peak + self.code_peak
        at_s = 0.0
        while (at_s := at_s + rng.expovariate(most)) < self.seconds:
            drawn = rng.random() * most
            for kind, rate in self.rates(at_s).items():
                if drawn < rate:
                    yield Arrival(at_s, next(sources[kind]))
                    break
                drawn -= rate


def _bump(hour: float, centre: float, width_h: float) -> float:
    """1 at its centre, near 0 a few widths away; the day is a circle."""
    away_h = abs(hour - centre)
    away_h = min(away_h, DAY_H - away_h)
    return math.exp(-0.5 * (away_h / width_h) ** 2)
