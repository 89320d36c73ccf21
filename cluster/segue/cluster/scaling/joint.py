"""One budget of GPUs for both pools: the ratio of prefill to decode at which most requests are served within the SLO.

Per request, prefill has ``prompt_tokens`` to compute and decode ``output_tokens`` to write. A worker of each pool does
so many a second, as measured. The pool that is used up first bounds the whole, and it is of no use to use either up:
waiting times grow without bound towards full use. So each pool counts for its capacity times the use that its SLO
tolerates, and what a split can serve is the lesser of the two. This is the balance that DistServe (OSDI 2024) searches
by simulation; with measured rates it is a division.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Budget:
    """``gpus`` are shared by both pools; a worker takes so many of them."""

    gpus: int
    prefill_gpus: int = 1
    decode_gpus: int = 1

    def __post_init__(self) -> None:
        if min(self.prefill_gpus, self.decode_gpus) < 1 or self.gpus < self.prefill_gpus + self.decode_gpus:
            raise ValueError(
                f"a budget of {self.gpus} GPUs must hold one prefill worker ({self.prefill_gpus}) and one decode "
                f"worker ({self.decode_gpus}), and each takes at least one"
            )


@dataclass(frozen=True, slots=True)
class Work:
    """What arrives and what one worker of each pool gets done within the SLO. All above 0, tokens a second."""

    prompt_tokens_per_s: float
    output_tokens_per_s: float
    prefill_rate: float
    decode_rate: float

    @property
    def measured(self) -> bool:
        return min(self.prompt_tokens_per_s, self.output_tokens_per_s, self.prefill_rate, self.decode_rate) > 0


@dataclass(frozen=True, slots=True)
class Split:
    """``served`` is the share of what arrives that this split can serve within the SLO; above 1 is headroom."""

    prefill: int
    decode: int
    served: float

    def gpus(self, budget: Budget) -> int:
        return self.prefill * budget.prefill_gpus + self.decode * budget.decode_gpus


def served(prefill: int, decode: int, work: Work, use: float) -> float:
    """The share of the work that fits into ``use`` of both pools."""
    return use * min(
        prefill * work.prefill_rate / work.prompt_tokens_per_s,
        decode * work.decode_rate / work.output_tokens_per_s,
    )


def best_split(budget: Budget, work: Work, use: float, enough: float = 1.0) -> Split:
    """The split of the fewest GPUs that serves at least ``enough`` times the work; if none does, what serves most.

    Between equals the one with more headroom in the scarcer pool wins, then the one with more decode workers: running
    answers feel a full decode pool with every token.
    """
    splits = [Split(prefill, decode, served(prefill, decode, work, use)) for prefill, decode in _splits(budget)]
    sufficient = [split for split in splits if split.served >= enough]
    if sufficient:
        return min(sufficient, key=lambda split: (split.gpus(budget), -split.served, -split.decode))
    return max(splits, key=lambda split: (split.served, -split.gpus(budget), split.decode))


def _splits(budget: Budget) -> Iterator[tuple[int, int]]:
    for prefill in range(1, budget.gpus // budget.prefill_gpus + 1):
        left = budget.gpus - prefill * budget.prefill_gpus
        for decode in range(1, left // budget.decode_gpus + 1):
            yield prefill, decode
