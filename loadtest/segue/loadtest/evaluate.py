"""A load's outcomes, evaluated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segue.loadtest.generator.processes import Load
from segue.loadtest.measure.lag import judge
from segue.loadtest.measure.outcome import Outcome
from segue.loadtest.measure.result import FORMAT, Result, Samples
from segue.loadtest.measure.slo import SloTable
from segue.loadtest.measure.summary import summarize
from segue.loadtest.measure.windows import window_length_s, windows
from segue.loadtest.plan import Plan

_MAX_SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class Judging:
    """By what a load is judged. ``max_lag_s`` bounds the generator's own lag."""

    slos: SloTable
    max_lag_s: float = 0.05


def evaluate(load: Load, plan: Plan, judging: Judging, title: str, setup: Mapping[str, str]) -> Result:
    """The windows hold all requests, the figures those after the warm-up."""
    measured = [one for one in load.outcomes if not plan.is_warm_up(one.index, one.intended_s)]
    last_s = max((one.end_s for one in load.outcomes), default=0.0)
    return Result(
        format=FORMAT,
        title=title,
        started_unix_s=load.started_unix_s,
        setup=setup,
        summary=summarize(measured, judging.slos, len(load.outcomes) - len(measured)),
        generator=judge([one.lag_s for one in measured], load.generators, judging.max_lag_s),
        windows=windows(load.outcomes, judging.slos, window_length_s(last_s)),
        samples=_samples([one for one in measured if one.ok]),
        warm_up_s=min((one.intended_s for one in measured), default=0.0) if len(measured) < len(load.outcomes) else 0.0,
    )


def _samples(answered: Sequence[Outcome]) -> Samples:
    return Samples(
        _thinned(one.ttft_s for one in answered),
        _thinned(itl_s for one in answered if (itl_s := one.itl_s) is not None),
        _thinned(gap_s for one in answered for gap_s in one.gaps_s),
        _thinned(one.end_to_end_s for one in answered),
    )


def _thinned(values: Iterable[float]) -> tuple[float, ...]:
    """Sorted; of many values so many percentiles, both ends included, which draw the same curve."""
    data = np.sort(np.fromiter(values, np.float64))
    if data.size > _MAX_SAMPLES:
        data = data[np.linspace(0, data.size - 1, _MAX_SAMPLES).round().astype(np.int64)]
    return tuple(round(value, 6) for value in data.tolist())
