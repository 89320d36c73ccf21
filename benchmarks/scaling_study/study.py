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
from scaling_study.statics import Fixed, best_of_each_size, first_in_time, search, within_reach


@dataclass(frozen=True, slots=True)
class Settings:
    """``day`` with its first seed; of ``seeds`` the best splits and the scalers are run. Splits are tried on
    ``short_seconds``, and those within ``reach`` of the best on the whole day."""

    gpus: int
    day: Day
    seeds: int
    short_seconds: float
    reach: float


@dataclass(slots=True)
class Report:
    """``short`` has the share of good answers of every split tried on the short day."""

    settings: Settings
    short: dict[Fixed, float] = field(default_factory=dict)
    results: list[Result] = field(default_factory=list)

    def of(self, name: str, seed: int) -> Result | None:
        return next((one for one in self.results if (one.name, one.seed) == (name, seed)), None)

    def named(self, name: str) -> list[Result]:
        return [one for one in self.results if one.name == name]

    def best_fixed(self, seed: int) -> Result:
        """Of the splits that ran that seed's whole day, the one with most good answers a GPU-hour."""
        fixed_ones = [one for one in self.results if one.name.startswith("static") and one.seed == seed]
        return max(fixed_ones, key=lambda one: one.good_per_gpu_hour)


Say = Callable[[str], None]


def study(report: Report, traces: Traces, keep: Callable[[Report], None], say: Say) -> None:
    """All runs that ``report`` lacks; ``keep`` is called after each."""
    settings = report.settings
    _try_splits(report, traces, keep, say)
    near = within_reach(report.short, settings.reach)
    say(f"within {settings.reach:.0%} of the best: {', '.join(split.name for split in near)}")
    for number in range(settings.seeds):
        day = replace(settings.day, seed=settings.day.seed + number)
        shown = [*near, *(split for split in best_of_each_size(report.short) if split not in near and not number)]
        candidates = [*scalers(settings.gpus), *(fixed(one.prefill, one.decode) for one in shown)]
        _run_all(report, candidates, (day, traces), keep, say)


def _try_splits(report: Report, traces: Traces, keep: Callable[[Report], None], say: Say) -> None:
    if report.short:
        return
    settings = report.settings
    day = replace(settings.day, seconds=settings.short_seconds)
    arrivals = day.arrivals(traces)
    rates = Rates(timing())
    in_time = {count: first_in_time(arrivals, count, rates) / len(arrivals) for count in range(1, settings.gpus)}

    def good(split: Fixed) -> float:
        return run(fixed(split.prefill, split.decode), arrivals, day.seconds, settings.gpus, day.seed).attainment

    for split, share in search(settings.gpus, in_time, settings.reach, good):
        report.short[split] = share
        say(f"{split.name:14} {share:6.1%} on the short day, {share / split.total:.2%} a GPU")
    keep(report)


def _run_all(
    report: Report,
    candidates: Sequence[Candidate],
    source: tuple[Day, Traces],
    keep: Callable[[Report], None],
    say: Say,
) -> None:
    day, traces = source
    missing = [one for one in candidates if report.of(one.name, day.seed) is None]
    arrivals = day.arrivals(traces) if missing else []
    for candidate in missing:
        result = run(candidate, arrivals, day.seconds, report.settings.gpus, day.seed)
        report.results.append(result)
        keep(report)
        say(
            f"seed {result.seed} {result.name:24} {result.gpu_hours:6.1f} GPU-hours  attainment "
            f"{result.attainment:6.1%}  late {result.late_first:5.1%} slow {result.slow:5.1%}  "
            f"{result.good_per_gpu_hour:7.0f} good/GPU-hour"
        )


def write(report: Report, file: Path) -> None:
    short = [[split.prefill, split.decode, share] for split, share in report.short.items()]
    told = {"settings": asdict(report.settings), "short": short, "results": [asdict(one) for one in report.results]}
    file.write_text(json.dumps(told))


def read(file: Path) -> Report:
    told: dict[str, Any] = json.loads(file.read_text())
    settings = Settings(**{**told["settings"], "day": Day(**told["settings"]["day"])})
    results = [Result(**{**one, "samples": tuple(Sample(**at) for at in one["samples"])}) for one in told["results"]]
    return Report(settings, {Fixed(prefill, decode): share for prefill, decode, share in told["short"]}, results)
