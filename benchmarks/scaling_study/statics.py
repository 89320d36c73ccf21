"""The best of all fixed splits: every one tried on a short day, those near the best on the full day.

Nothing carries over from one hour of a fixed split to another but its queues, so that a shorter day under the same rates
ranks them nearly as the full one does. A split is left out only where another of as many GPUs is better by proof: a
decode pool can make no first token come earlier, so no split has more good answers than first tokens in time, and these
follow from the prefill pool alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heapify, heapreplace

from scaling_study.rates import Rates
from scaling_study.traffic import SLOS, Arrival


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


def splits(gpus: int) -> list[Fixed]:
    """Every one with at least one worker a pool."""
    return [Fixed(prefill, total - prefill) for total in range(2, gpus + 1) for prefill in range(1, total)]


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


def search(
    gpus: int, bounds: dict[int, float], reach: float, good: Callable[[Fixed], float]
) -> Iterator[tuple[Fixed, float]]:
    """Each split and its share of good answers, ``good(split)``, without those that another of the same size beats by
    proof, and by more than ``reach``. ``bounds[prefill]`` is the share of first tokens in time."""
    for total in range(2, gpus + 1):
        best = 0.0
        # First those that are likely to be good, so that the others need not be tried.
        for split in sorted(
            (one for one in splits(gpus) if one.total == total), key=lambda one: abs(one.prefill / total - 0.6)
        ):
            if best and bounds[split.prefill] * (1 + reach) < best:
                continue
            share = good(split)
            best = max(best, share)
            yield split, share


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
