"""Workers of one kind are as fast as each other until they are seen not to be. Pure.

Each is measured for itself, with noise; chosen by that, the one with the luckiest measurements would get all requests.
So a worker counts with its kind's rate, and with its own only where it stands out. A worker that is new is expected to
be as fast as its kind.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from statistics import fmean, median_low
from typing import NamedTuple

from segue.router.rates.lines import NOTHING, Line
from segue.router.rates.worker_rates import UNMEASURED, Rates

# By how much a worker must differ from its kind to count by itself, either way.
STANDS_OUT = 1.5
_LEAST_SAMPLES = 5
# A line says something of what is so many times as long as all that it was measured by.
KNOWN_BEYOND = 4.0
# Where lines are compared: a prompt and a batch of usual size.
_PROMPT_TOKENS, _BATCH_REQUESTS = 1000, 8


class Kind(NamedTuple):
    """What makes workers comparable. A tuple: it is looked up for each worker that has changed."""

    role: int
    accelerator: str
    engine: str
    engine_version: str


def pool_rates(measured: Iterable[tuple[Kind, Rates]]) -> Mapping[Kind, Rates]:
    """What is usual for each kind: of each rate the median worker's, and the mean length of answers."""
    by_kind: dict[Kind, list[Rates]] = {}
    for kind, rates in measured:
        by_kind.setdefault(kind, []).append(rates)
    return {kind: _usual(each) for kind, each in by_kind.items()}


def settle(own: Rates, usual: Rates) -> Rates:
    """What a worker is taken to be like."""
    if own is UNMEASURED and usual is UNMEASURED:
        return UNMEASURED
    return replace(
        own,
        prefill=_settled(own.prefill, usual.prefill, _PROMPT_TOKENS),
        stall=_settled(own.stall, usual.stall, _PROMPT_TOKENS),
        step=_settled(own.step, usual.step, _BATCH_REQUESTS),
        join_s=usual.join_s,
        local_s=usual.local_s,
        decode_tokens=usual.decode_tokens,
        token_s=own.token_s or usual.token_s,
        crowding=usual.crowding,
    )


def _usual(each: list[Rates]) -> Rates:
    if len(each) == 1:
        return each[0]
    joins = [rates.join_s for rates in each if rates.join_s]
    locals_s = [rates.local_s for rates in each if rates.local_s]
    lengths = [rates.decode_tokens for rates in each if rates.decode_tokens]
    paces = [rates.token_s for rates in each if rates.token_s]
    return Rates(
        prefill=_median([rates.prefill for rates in each], _PROMPT_TOKENS),
        stall=_median([rates.stall for rates in each], _PROMPT_TOKENS),
        step=_median([rates.step for rates in each], _BATCH_REQUESTS),
        join_s=median_low(joins) if joins else 0.0,
        local_s=median_low(locals_s) if locals_s else 0.0,
        decode_tokens=fmean(lengths) if lengths else 0.0,
        token_s=median_low(paces) if paces else 0.0,
    )


def _median(lines: Iterable[Line], x: int) -> Line:
    measured = [line for line in lines if line]
    if not measured:
        return NOTHING
    farthest = max(measured, key=lambda line: line.reach)
    far = sorted((line for line in measured if _reaches(line, farthest)), key=lambda line: line(x))
    return far[(len(far) - 1) // 2]


def _settled(own: Line, usual: Line, x: int) -> Line:
    if own.samples < _LEAST_SAMPLES or not _reaches(own, usual):
        return usual
    seconds = usual(x)
    return usual if seconds / STANDS_OUT <= own(x) <= seconds * STANDS_OUT else own


def _reaches(line: Line, other: Line) -> bool:
    """Whether it says something of all that the other one was measured by."""
    return KNOWN_BEYOND * line.reach >= other.reach
