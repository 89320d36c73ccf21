"""When requests arrive in an open loop: endless series of seconds since the start, never falling."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count


def constant(rate_per_s: float) -> Iterator[float]:
    """Evenly spaced; the first at 0. Computed from the number, so that rounding doesn't add up."""
    return (number / _positive(rate_per_s) for number in count())


def poisson(rate_per_s: float, seed: int) -> Iterator[float]:
    """Exponential gaps of mean ``1 / rate_per_s``: clients that know nothing of one another."""
    rate_per_s = _positive(rate_per_s)
    draw = random.Random(f"arrivals/{seed}")

    def times() -> Iterator[float]:
        at_s = 0.0
        while True:
            at_s += draw.expovariate(rate_per_s)
            yield at_s

    return times()


def at_once() -> Iterator[float]:
    """All at 0: for closed loops, whose clients decide when."""
    return (0.0 for _ in count())


def _positive(rate_per_s: float) -> float:
    if not rate_per_s > 0:
        raise ValueError(f"a rate of {rate_per_s} requests/s; it must be above 0")
    return rate_per_s
