"""Everything one comparison measured, and the questions asked of it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from comparison.figures import Agreement, Measurement, Ratio, agreement, paired_ratios
from comparison.load import Sample

SEGUE, STOCK = "segue", "stock"


@dataclass(frozen=True, slots=True)
class Run:
    """One stack at one concurrency in one round: its measurement and the answers behind it."""

    measurement: Measurement
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Results:
    """All runs, and what they were measured on and with."""

    runs: tuple[Run, ...]
    machine: Mapping[str, str]
    settings: Mapping[str, Any]
    measured_at: str  # ISO 8601 with a UTC offset

    def concurrencies(self) -> list[int]:
        return sorted({run.measurement.concurrency for run in self.runs})

    def measurements(self, stack: str, concurrency: int) -> list[Measurement]:
        return [run.measurement for run in self._runs(stack, concurrency)]

    def ratios(self, concurrency: int) -> dict[str, Ratio]:
        """Per metric, Segue's figure over the stock one; empty when only one stack was measured."""
        return paired_ratios(self.measurements(STOCK, concurrency), self.measurements(SEGUE, concurrency))

    def same_text(self, concurrency: int) -> Agreement:
        """Segue's answers against the stock ones of the same round."""
        stock = {run.measurement.round: run.samples for run in self._runs(STOCK, concurrency)}
        return _total(
            agreement(run.samples, stock[run.measurement.round])
            for run in self._runs(SEGUE, concurrency)
            if run.measurement.round in stock
        )

    def repeated_text(self, stack: str, concurrency: int) -> Agreement:
        """One stack's answers in later rounds against those of its first: how repeatable they are at all."""
        runs = self._runs(stack, concurrency)
        return _total(agreement(run.samples, runs[0].samples) for run in runs[1:])

    def paths(self) -> Mapping[str, int]:
        """Requests by the way their stack says it carried them out, for stacks that say so."""
        total: Counter[str] = Counter()
        for run in self.runs:
            total.update(run.measurement.paths)
        return total

    def _runs(self, stack: str, concurrency: int) -> list[Run]:
        return [
            run for run in self.runs if run.measurement.stack == stack and run.measurement.concurrency == concurrency
        ]


def _total(parts: Iterable[Agreement]) -> Agreement:
    counted = list(parts)
    return Agreement(
        compared=sum(part.compared for part in counted),
        same=sum(part.same for part in counted),
        same_but_cut_character=sum(part.same_but_cut_character for part in counted),
    )
