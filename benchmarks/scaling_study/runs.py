"""One scaler through one day."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from scaling_study.fleet import Fleet
from scaling_study.rates import TICK_S
from scaling_study.scalers import Candidate
from scaling_study.traffic import Arrival

from segue.engine.simulated.gpus import GPUS
from segue.engine.simulated.models import SHAPES
from segue.engine.simulated.timing import Timing

_SAMPLES = 60
WARM_UP_S = 600.0


def timing() -> Timing:
    """Of every engine in the study."""
    return Timing(GPUS["H100"], SHAPES["llama-3.1-8b"])


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    prefill: int
    decode: int


@dataclass(frozen=True, slots=True)
class Result:
    """Shares are of the requests that came. One that has not ended when the day does is none of the good ones."""

    name: str
    seed: int
    gpu_hours: float
    attainment: float
    late_first: float
    slow: float
    unended: float
    good_per_gpu_hour: float
    samples: tuple[Sample, ...]


def run(candidate: Candidate, arrivals: Sequence[Arrival], seconds: float, gpus: int, seed: int) -> Result:
    """The first ten minutes are gone through once more before, uncounted: nobody is judged by what it began with."""
    fleet = Fleet(timing(), gpus, candidate.prefill, candidate.decode, WARM_UP_S)
    scaler = candidate.scaler()
    before = [replace(one, at_s=one.at_s - WARM_UP_S) for one in arrivals if one.at_s < WARM_UP_S]
    requests, arrivals = len(arrivals), [*before, *arrivals]
    samples = []
    come, look_s, sample_s = 0, fleet.now_s, 0.0
    while fleet.now_s < seconds:
        first = come
        while come < len(arrivals) and arrivals[come].at_s <= fleet.now_s + TICK_S:
            come += 1
        fleet.run_tick(arrivals[first:come])
        if fleet.now_s >= look_s:
            look_s += scaler.interval_s
            scaler.look(fleet)
        if fleet.now_s >= sample_s:
            sample_s += seconds / _SAMPLES
            samples.append(Sample(fleet.now_s, len(fleet.present("prefill")), len(fleet.present("decode"))))
    outcome = fleet.outcome
    gpu_hours = outcome.gpu_s / 3600
    return Result(
        name=candidate.name,
        seed=seed,
        gpu_hours=gpu_hours,
        attainment=outcome.good / requests,
        late_first=outcome.late_first / requests,
        slow=outcome.slow / requests,
        unended=1 - outcome.ended / requests,
        good_per_gpu_hour=outcome.good / gpu_hours,
        samples=tuple(samples),
    )
