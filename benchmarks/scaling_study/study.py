"""Which runs there are, and what of them is known already."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from scaling_study.day import Day, Traces
from scaling_study.rates import Rates
from scaling_study.runs import Result, Sample, run, timing
from scaling_study.scalers import Candidate, fixed, scalers
from scaling_study.statics import Fixed, Seen, first_in_time, parse, search, within_reach
from scaling_study.traffic import Arrival


@dataclass(frozen=True, slots=True)
class Settings:
    """``day`` with its first seed, which all splits are tried on; those within ``reach`` of the best of them and the
    scalers are run for ``seeds`` seeds."""

    gpus: int
    day: Day
    seeds: int
    reach: float

    @property
    def all_seeds(self) -> range:
        return range(self.day.seed, self.day.seed + self.seeds)


@dataclass(slots=True)
class Report:
    settings: Settings
    results: list[Result] = field(default_factory=list)

    @property
    def fixed(self) -> dict[Fixed, float]:
        """The share of good answers of every split tried, over the first seed's day."""
        seed = self.settings.day.seed
        return {
            parse(one.name): one.attainment
            for one in self.results
            if one.name.startswith("static") and one.seed == seed
        }

    def of(self, name: str, seed: int) -> Result | None:
        return next((one for one in self.results if (one.name, one.seed) == (name, seed)), None)

    def named(self, name: str) -> list[Result]:
        """One for each seed, in their order."""
        return [one for seed in self.settings.all_seeds if (one := self.of(name, seed)) is not None]

    def best_fixed(self, seed: int) -> Result:
        """Of the splits that ran that seed's whole day, the one with most good answers a GPU-hour."""
        fixed_ones = [one for one in self.results if one.name.startswith("static") and one.seed == seed]
        return max(fixed_ones, key=lambda one: one.good_per_gpu_hour)


Say = Callable[[str], None]


class Study:
    """All runs that ``report`` lacks; ``keep`` is called after each."""

    def __init__(self, report: Report, traces: Traces, keep: Callable[[Report], None], say: Say) -> None:
        self._report = report
        self._traces = traces
        self._keep = keep
        self._say = say

    def run(self) -> None:
        settings = self._report.settings
        self._search(settings.day)
        near = within_reach(self._report.fixed, settings.reach)
        self._say(f"within {settings.reach:.0%} of the best: {', '.join(split.name for split in near)}")
        for seed in settings.all_seeds:
            day = replace(settings.day, seed=seed)
            arrivals = day.arrivals(self._traces)
            for candidate in (*scalers(settings.gpus), *(fixed(one.prefill, one.decode) for one in near)):
                self._known(candidate, day, arrivals)

    def _search(self, day: Day) -> None:
        gpus, arrivals, rates = self._report.settings.gpus, day.arrivals(self._traces), Rates(timing())
        in_time = {count: first_in_time(arrivals, count, rates) / len(arrivals) for count in range(1, gpus)}
        self._say("first tokens in time: " + ", ".join(f"{count}: {share:.1%}" for count, share in in_time.items()))
        tried = search(gpus, in_time, self._report.settings.reach, lambda split: self._seen(split, day, arrivals))
        self._say(f"{len(tried)} of {gpus * (gpus - 1) // 2} splits tried, the others can't be the best")

    def _seen(self, split: Fixed, day: Day, arrivals: Sequence[Arrival]) -> Seen:
        result = self._known(fixed(split.prefill, split.decode), day, arrivals)
        return Seen(result.attainment, on_pace=1 - result.slow)

    def _known(self, candidate: Candidate, day: Day, arrivals: Sequence[Arrival]) -> Result:
        known = self._report.of(candidate.name, day.seed)
        if known is not None:
            return known
        result = run(candidate, arrivals, day.seconds, self._report.settings.gpus, day.seed)
        self._report.results.append(result)
        self._keep(self._report)
        self._say(
            f"seed {result.seed} {result.name:24} {result.gpu_hours:6.1f} GPU-hours  attainment "
            f"{result.attainment:6.1%}  late {result.late_first:5.1%} slow {result.slow:5.1%}  "
            f"{result.good_per_gpu_hour:7.0f} good/GPU-hour"
        )
        return result


def write(report: Report, file: Path) -> None:
    file.write_text(
        json.dumps({"settings": asdict(report.settings), "results": [asdict(one) for one in report.results]})
    )


def read(file: Path) -> Report:
    told: dict[str, Any] = json.loads(file.read_text())
    settings = Settings(**{**told["settings"], "day": Day(**told["settings"]["day"])})
    results = [Result(**{**one, "samples": tuple(Sample(**at) for at in one["samples"])}) for one in told["results"]]
    return Report(settings, results)
