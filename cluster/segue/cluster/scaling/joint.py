"""One budget of GPUs for both pools: the ratio of prefill to decode at which most requests are served within the SLO.

Per request, prefill has ``prompt_tokens`` to compute and decode ``output_tokens`` to write. A worker of each pool does
so many a second, as measured. The pool that is used up first bounds the whole, and it is of no use to use either up:
waiting times grow without bound towards full use. So each pool counts for its capacity times the use that its SLO
tolerates, and what a split can serve is the lesser of the two. This is the balance that DistServe (OSDI 2024) searches
by simulation; with measured rates it is a division.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from segue.cluster.scaling.pace import Bounds


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
class Limits:
    """Between which numbers each pool may be."""

    prefill: Bounds = field(default_factory=Bounds)
    decode: Bounds = field(default_factory=Bounds)

    def fit(self, budget: Budget) -> bool:
        """Whether the least that they allow is within the budget."""
        return self.prefill.least * budget.prefill_gpus + self.decode.least * budget.decode_gpus <= budget.gpus

    def clamp(self, split: Split) -> Split:
        return Split(self.prefill.clamp(split.prefill), self.decode.clamp(split.decode), 0.0)


UNLIMITED = Limits(Bounds(most=2**31), Bounds(most=2**31))


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
    return min(served_by_each(prefill, decode, work, use))


def served_by_each(prefill: int, decode: int, work: Work, use: float) -> tuple[float, float]:
    """What fits into prefill, and what into decode."""
    return (
        use * prefill * work.prefill_rate / work.prompt_tokens_per_s,
        use * decode * work.decode_rate / work.output_tokens_per_s,
    )


def best_split(budget: Budget, work: Work, use: float, enough: float = 1.0, limits: Limits = UNLIMITED) -> Split:
    """The split of the fewest GPUs that serves at least ``enough`` times the work; if none does, what serves most.

    If the budget holds not even the least that ``limits`` allow, that least is the best.

    Between equals the one with more headroom in the scarcer pool wins, then the one with more decode workers: running
    answers feel a full decode pool with every token.
    """
    found = list(_splits(budget, limits)) if limits.fit(budget) else [(limits.prefill.least, limits.decode.least)]
    splits = [Split(prefill, decode, served(prefill, decode, work, use)) for prefill, decode in found]
    sufficient = [split for split in splits if split.served >= enough]
    if sufficient:
        return min(sufficient, key=lambda split: (split.gpus(budget), -split.served, -split.decode))
    return max(splits, key=lambda split: (split.served, -split.gpus(budget), split.decode))


def _splits(budget: Budget, limits: Limits) -> Iterator[tuple[int, int]]:
    most = min(limits.prefill.most, budget.gpus // budget.prefill_gpus)
    for prefill in range(limits.prefill.least, most + 1):
        left = budget.gpus - prefill * budget.prefill_gpus
        for decode in range(limits.decode.least, min(limits.decode.most, left // budget.decode_gpus) + 1):
            yield prefill, decode
