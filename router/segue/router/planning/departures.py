"""When requests that a decode worker has will leave it, and those that wait behind them begin. Pure.

Of those in its steps, our own answers have times by which they will probably be over; those of other routers leave
evenly spread over the time that a request stays; those that are on their way to it begin at once and stay in full.
Whoever begins in a place that came free stays as long as any.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import merge

# So far ahead nobody plans: requests leave before, or not at all.
_HORIZON_S = 3600.0


@dataclass(frozen=True, slots=True)
class Departures:
    """``ends_s`` are of those in its steps whose ends are known, in order, on the clock of ``now_s``. ``others`` are
    there beside them, ``coming`` ones will be in a moment; all stay for ``stay_s``."""

    now_s: float
    stay_s: float
    ends_s: Sequence[float] = ()
    others: int = 0
    coming: int = 0

    def beyond(self, number: int) -> Iterator[float]:
        """Seconds from now until one after the other has left, behind the first ``number`` of them; each place is
        taken again at once."""
        first = self._first()
        if not first:
            return
        turn, place = divmod(number, len(first))
        while turn * self.stay_s < _HORIZON_S:
            for left_s in first[place:]:
                yield left_s + turn * self.stay_s
            turn, place = turn + 1, 0

    def _first(self) -> list[float]:
        """Of those that have the places now, or will in a moment."""
        known: Iterable[float] = (max(0.0, end_s - self.now_s) for end_s in self.ends_s)
        if self.others:
            known = merge(known, (self.stay_s * number / self.others for number in range(1, self.others + 1)))
        return [*known, *[self.stay_s] * self.coming]


def wait_s(queues: Iterable[Iterable[tuple[float, float]]], wanted: float) -> float:
    """Until so much is free, over queues that each give back some at a time, as (seconds from now, how much), in order;
    what the first gives back may be less than nothing. Infinite if all of them end before."""
    had = 0.0
    for seconds, amount in merge(*queues):
        had += amount
        if had >= wanted:
            return seconds
    return float("inf")
