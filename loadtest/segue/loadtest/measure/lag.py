"""Whether the generator kept up: a load test that was late measures itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segue.loadtest.measure.distribution import Distribution


@dataclass(frozen=True, slots=True)
class GeneratorLoad:
    """How one process of the generator fared. ``loop_lag_s``: how late its event loop woke, asked 50 times a second."""

    loop_lag_s: tuple[float, ...]
    cpu_s: float
    wall_s: float

    @property
    def cpu_share(self) -> float:
        """Of one core."""
        return self.cpu_s / self.wall_s if self.wall_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class GeneratorReport:
    """``send_lag_s``: sent after it should have been. ``problems`` empty: the figures can be believed."""

    processes: int
    send_lag_s: Distribution
    loop_lag_s: Distribution
    cpu_share_max: float
    problems: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return not self.problems


def judge(send_lags_s: Sequence[float], loads: Sequence[GeneratorLoad], max_lag_s: float) -> GeneratorReport:
    """``max_lag_s`` bounds the 99th percentile of both lags."""
    send = Distribution.of(send_lags_s)
    loop = Distribution.of([lag_s for load in loads for lag_s in load.loop_lag_s])
    cpu_share = max((load.cpu_share for load in loads), default=0.0)
    # Late without being busy: others had the processor.
    remedy = (
        "a generator process was busy: use more --processes or a lower rate"
        if cpu_share > 0.5
        else f"it used {100 * cpu_share:.0f} % of a core, so other work had the processor: give it a quieter machine"
    )
    problems = []
    if not send_lags_s:
        problems.append(
            "no request was measured: the load test sent none, or none after its warm-up; let it run longer"
        )
    for name, lag in (("requests were sent", send), ("the generator's event loop woke", loop)):
        if lag.p99 > max_lag_s:
            problems.append(
                f"{name} {1000 * lag.p99:.0f} ms late at p99, more than the {1000 * max_lag_s:.0f} ms allowed; {remedy}"
            )
    if cpu_share > 0.9:
        problems.append(
            f"a generator process used {100 * cpu_share:.0f} % of its core; use more --processes or a lower rate"
        )
    return GeneratorReport(len(loads), send, loop, cpu_share, tuple(problems))
