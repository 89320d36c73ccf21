"""How fast a pool may follow its demand: stabilisation windows and rate limits, per direction.

The same two devices as in the Kubernetes autoscaler (``behavior`` of autoscaling/v2). A window looks back over what was
asked for: growing takes the least of it, shrinking the most, so that a short peak or a short lull moves nothing. A rate
limit bounds how many workers come or go within a period.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Direction:
    """``window_s`` 0 follows at once. At most ``step`` workers within ``period_s``."""

    window_s: float
    step: int
    period_s: float

    def __post_init__(self) -> None:
        if self.window_s < 0 or self.step < 1 or self.period_s <= 0:
            raise ValueError(
                f"window_s {self.window_s} must be 0 or more, step {self.step} 1 or more, period_s {self.period_s} "
                "above 0"
            )


@dataclass(frozen=True, slots=True)
class Bounds:
    """Of one pool. A pool of none would serve nobody."""

    least: int = 1
    most: int = 64

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most:
            raise ValueError(f"least {self.least} must be 1 or more and at most most, which is {self.most}")

    def clamp(self, workers: int) -> int:
        return min(self.most, max(self.least, workers))


@dataclass(frozen=True, slots=True)
class Pace:
    up: Direction = field(default_factory=lambda: Direction(window_s=0.0, step=4, period_s=60.0))
    down: Direction = field(default_factory=lambda: Direction(window_s=300.0, step=1, period_s=60.0))
    bounds: Bounds = field(default_factory=Bounds)


@dataclass(frozen=True, slots=True)
class History:
    """Of one pool: what was asked for and what was done, newest last; as old as the pace still looks back on."""

    asked: tuple[tuple[float, int], ...] = ()
    changes: tuple[tuple[float, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """``workers`` is what the pool should have now. ``held`` says what kept it from what was asked for, or nothing."""

    workers: int
    held: str
    history: History


def step(pace: Pace, history: History, present: int, asked: int, now_s: float) -> Step:
    """One look at a pool of ``present`` workers of which ``asked`` are needed."""
    wanted = pace.bounds.clamp(asked)
    seen = (*history.asked, (now_s, wanted))
    grow_to = min(count for at_s, count in seen if now_s - at_s <= pace.up.window_s)
    shrink_to = max(count for at_s, count in seen if now_s - at_s <= pace.down.window_s)
    # Each window only ever holds its own direction back.
    steady = max(min(wanted, grow_to), present) if wanted > present else min(max(wanted, shrink_to), present)
    came = sum(change for at_s, change in history.changes if change > 0 and now_s - at_s < pace.up.period_s)
    went = -sum(change for at_s, change in history.changes if change < 0 and now_s - at_s < pace.down.period_s)
    most = present + max(0, pace.up.step - came)
    least = present - max(0, pace.down.step - went)
    # A pool outside its bounds is brought inside them at once: they are an order, not a recommendation.
    workers = pace.bounds.clamp(min(most, max(least, steady)))
    change = workers - present
    return Step(workers, _held(asked, wanted, steady, workers), _kept(pace, seen, history.changes, change, now_s))


def asked_for(pace: Pace, history: History, workers: int, now_s: float) -> History:
    """So many were asked for by somebody else: what the windows look back on if this pace decides again."""
    return _kept(pace, (*history.asked, (now_s, workers)), history.changes, 0, now_s)


def _held(asked: int, wanted: int, steady: int, workers: int) -> str:
    told = []
    if wanted != asked:
        told.append(f"bounds make {wanted} of {asked}")
    if steady != wanted:
        told.append(f"the stabilisation window holds {steady}")
    if workers != steady:
        told.append(f"the rate limit allows {workers}")
    return ", ".join(told)


def _kept(
    pace: Pace, asked: tuple[tuple[float, int], ...], changes: tuple[tuple[float, int], ...], change: int, now_s: float
) -> History:
    window_s = max(pace.up.window_s, pace.down.window_s)
    period_s = max(pace.up.period_s, pace.down.period_s)
    if change:
        changes = (*changes, (now_s, change))
    return History(
        tuple(entry for entry in asked if now_s - entry[0] <= window_s),
        tuple(entry for entry in changes if now_s - entry[0] < period_s),
    )
