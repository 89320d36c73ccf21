"""The best of all fixed splits over the whole day.

Every split of every size, but for two kinds that are left out. By proof: a decode pool can make no first token come
earlier, so that no split has more good answers than first tokens in time, and these follow from the prefill pool alone.
By what was seen: with a decode pool of a size that beside another prefill pool kept less than half of what these first
tokens allow, the requests pile up whatever prefill does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from scaling_study.rates import Rates
from scaling_study.traffic import SLOS, Arrival

_LIKELY = 0.6  # Of the GPUs in prefill; decides the order alone.
_WORTH_KNOWING = 0.7  # Of the best split's good answers a GPU; a split that can't have so many is not looked for.


@dataclass(frozen=True, slots=True, order=True)
class Fixed:
    prefill: int
    decode: int

    @property
    def total(self) -> int:
        return self.prefill + self.decode

    @property
    def name(self) -> str:
        return f"static {self.prefill}+{self.decode}"


def parse(name: str) -> Fixed:
    """The other way round than ``Fixed.name``."""
    prefill, decode = name.removeprefix("static ").split("+")
    return Fixed(int(prefill), int(decode))


def first_in_time(arrivals: Sequence[Arrival], prefill: int, rates: Rates) -> int:
    """How many first tokens come in time from ``prefill`` workers that take prompts in order."""
    free_at_s = [0.0] * prefill
    heapify(free_at_s)
    in_time = 0
    for arrival in arrivals:
        first_s = max(free_at_s[0], arrival.at_s) + rates.prefill_s(arrival.lengths)
        heapreplace(free_at_s, first_s)
        in_time += first_s - arrival.at_s <= SLOS[arrival.lengths.kind].ttft_s
    return in_time


def search(gpus: int, in_time: Mapping[int, float], good: Callable[[Fixed], float]) -> Iterator[tuple[Fixed, float]]:
    """Each split that may be the best of its size, and its share of good answers, ``good(split)``. ``in_time[prefill]``
    is the share of first tokens in time."""
    most_per_gpu, too_few = 0.0, 0
    for total in range(gpus, 1, -1):
        best = 0.0
        # First those that are likely to be good, so that the others need not be tried.
        for split in sorted(_of_size(total), key=lambda one: abs(one.prefill / total - _LIKELY)):
            most = in_time[split.prefill]
            if split.decode <= too_few or most <= best or most / total < most_per_gpu * _WORTH_KNOWING:
                continue
            share = good(split)
            yield split, share
            best = max(best, share)
            most_per_gpu = max(most_per_gpu, share / total)
            if share < most / 2:
                too_few = max(too_few, split.decode)


def _of_size(total: int) -> list[Fixed]:
    return [Fixed(prefill, total - prefill) for prefill in range(1, total)]


def within_reach(found: dict[Fixed, float], reach: float) -> list[Fixed]:
    """By good answers a GPU: those within ``reach`` of the best, best first."""
    worth = {split: share / split.total for split, share in found.items()}
    most = max(worth.values())
    near = [split for split, value in worth.items() if value >= most * (1 - reach)]
    return sorted(near, key=lambda split: -worth[split])


def best_of_each_size(found: dict[Fixed, float]) -> list[Fixed]:
    """The smallest first."""
    totals = sorted({split.total for split in found})
    return [max((one for one in found if one.total == total), key=lambda one: found[one]) for total in totals]
