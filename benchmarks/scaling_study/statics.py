"""The best of all fixed splits over the whole day: those that may be the best are run, most promising first.

A split is left out by proof: a decode pool can make no first token come earlier, so that no split has more good
answers than first tokens in time, and these follow from the prefill pool alone. And by what was seen: answers that a
decode pool of some size was too slow for are no fewer beside more prefill workers, which only send it requests sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from scaling_study.rates import Rates
from scaling_study.traffic import SLOS, Arrival

_TOLERANCE = 0.02  # Of all requests: by so much more may be on pace beside more prefill workers after all.


@dataclass(frozen=True, slots=True)
class Seen:
    """Shares of a split's requests: good ones, and those whose answer was not too slow."""

    good: float
    on_pace: float


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


def search(gpus: int, in_time: Mapping[int, float], reach: float, seen: Callable[[Fixed], Seen]) -> list[Fixed]:
    """Tries each split that may come within ``reach`` of the best by good answers a GPU, and says which these were.
    ``in_time[prefill]`` is the share of first tokens in time."""
    most_per_gpu = 0.0
    tried: dict[Fixed, Seen] = {}
    splits = [Fixed(prefill, total - prefill) for total in range(2, gpus + 1) for prefill in range(1, total)]
    for split in sorted(splits, key=lambda one: in_time[one.prefill] / one.total, reverse=True):
        paces = [it.on_pace for one, it in tried.items() if one.decode == split.decode and one < split]
        most = min([in_time[split.prefill], *(pace + _TOLERANCE for pace in paces)])
        if most / split.total >= most_per_gpu * (1 - reach):
            tried[split] = seen(split)
            most_per_gpu = max(most_per_gpu, tried[split].good / split.total)
    return list(tried)


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
