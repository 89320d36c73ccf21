"""Traces of production: times, lengths and which prompts begin alike.

Two formats. Mooncake's (FAST'25), JSON lines with ``timestamp`` in ms, ``input_length``, ``output_length`` and
``hash_ids``, one for each 512 tokens of the prompt: equal ids are equal prefixes up to there. Azure's (2023), CSV
with ``TIMESTAMP``, ``ContextTokens`` and ``GeneratedTokens``: nothing is shared.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import IO

MOONCAKE_BLOCK_TOKENS = 512


class TraceError(ValueError):
    """A trace that can't be read; the message has the line and what was expected."""


@dataclass(frozen=True, slots=True)
class TraceEntry:
    """One request of a trace. ``at_s`` counts from the trace's first request; ``blocks`` may be empty."""

    at_s: float
    input_tokens: int
    output_tokens: int
    blocks: tuple[int, ...] = ()


def read_trace(lines: IO[str]) -> Iterator[TraceEntry]:
    """The entries in order of time, whichever of the two formats it is.

    Raises TraceError for a line that is neither.
    """
    first = lines.readline()
    rest = _with_first(first, lines)
    entries = _azure(rest) if first.startswith("TIMESTAMP") else _mooncake(rest)
    ordered = sorted(entries, key=lambda entry: entry.at_s)
    start_s = ordered[0].at_s if ordered else 0.0
    for entry in ordered:
        yield TraceEntry(entry.at_s - start_s, entry.input_tokens, entry.output_tokens, entry.blocks)


def _with_first(first: str, rest: Iterable[str]) -> Iterator[str]:
    yield first
    yield from rest


def _mooncake(lines: Iterable[str]) -> Iterator[TraceEntry]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            entry = TraceEntry(
                float(row["timestamp"]) / 1000,
                int(row["input_length"]),
                int(row["output_length"]),
                tuple(int(one) for one in row.get("hash_ids", ())),
            )
        except (ValueError, TypeError, KeyError) as error:
            raise TraceError(
                f"line {number} of the trace is {line[:80].strip()!r} ({type(error).__name__}: {error}); expected "
                "a JSON object with timestamp (ms), input_length, output_length and hash_ids, or a file that begins "
                "with TIMESTAMP,ContextTokens,GeneratedTokens"
            ) from None
        needed = math.ceil(entry.input_tokens / MOONCAKE_BLOCK_TOKENS)
        if entry.blocks and len(entry.blocks) != needed:
            raise TraceError(
                f"line {number} of the trace has {len(entry.blocks)} hash_ids for {entry.input_tokens} tokens; "
                f"expected {needed}, one for each {MOONCAKE_BLOCK_TOKENS} tokens"
            )
        yield entry


def _azure(lines: Iterable[str]) -> Iterator[TraceEntry]:
    for number, row in enumerate(csv.DictReader(lines), 2):
        try:
            # Seven digits of a second; Python reads six.
            at = datetime.fromisoformat(row["TIMESTAMP"][:26])
            yield TraceEntry(at.timestamp(), int(row["ContextTokens"]), int(row["GeneratedTokens"]))
        except (ValueError, TypeError, KeyError) as error:
            raise TraceError(
                f"line {number} of the trace is {list(row.values())} ({type(error).__name__}: {error}); expected "
                "TIMESTAMP,ContextTokens,GeneratedTokens"
            ) from None
