"""What a prompt that is computed elsewhere costs the streams of a decode worker. Clock passed in.

With a GPU or a machine for each worker it costs them nothing. Workers that share cores, a GPU or its memory take their
time from each other, and nobody says so: it shows in decode's steps, which are longer while prefill workers compute
than while none does. Each step is compared with what steps of as many requests take on its worker while nobody
computes prompts; whether somebody did is known a moment later, from what prefill workers report.

Steps of one moment are slow for the same reason: a look at all of them is one measurement, of either side. What the
sides differ by counts if chance can hardly explain it and if it is worth the trouble, else it is nothing.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from math import sqrt

from segue.router.rates.lines import MOST_AT_ONCE, LineMeter

# A prefill worker's step is told of at its end: till then nobody knows whom it was beside.
_LATER_S = 1.0
# Of what is older nothing waits any more. Fewer steps are not worth a look, and more are too many.
_OLD_S, _WORTH_STEPS, _MOST_STEPS = 30.0, 16, 256
# A step is quiet beside less than this part of a worker that computes, and busy beside one that does but for this part.
_PART = 0.1
# So many steps make a measurement, and so many measurements of each side a figure.
_LEAST_STEPS, _LEAST_LOOKS = 4, 4
_MEMORY, _LINE_MEMORY = 0.98, 0.99
# A difference is believed beyond so many standard errors, and from this part of a step on.
_ERRORS, _LEAST = 2.0, 0.05
# What was seen so long ago is looked at anew: machines change, and who stays away from prefill would never learn.
_FORGET_S = 600.0


class CrowdingMeter:
    """Over all workers. Kinds of decode workers are measured together, each worker against itself."""

    def __init__(self) -> None:
        self._steps: list[_Step] = []
        self._computing: dict[str, deque[tuple[float, float]]] = {}
        self._quiet: dict[str, LineMeter] = {}
        self._sides: dict[Hashable, _Sides] = {}

    def computed(self, worker_id: str, since_s: float, until_s: float) -> None:
        """A prefill worker was busy with prompts. Told in the order of ends."""
        times = self._computing.setdefault(worker_id, deque())
        while times and since_s < times[-1][1]:
            since_s = min(since_s, times.pop()[0])
        times.append((since_s, until_s))
        _drop_old(times, until_s)

    def stepped(self, worker_id: str, kind: Hashable, requests: int, step_s: float, now_s: float) -> None:
        """A decode worker's step without prompts has ended."""
        if len(self._steps) < _MOST_STEPS and step_s > 0:
            self._steps.append(_Step(worker_id, kind, requests, step_s, now_s))

    def look(self, now_s: float, computing_since_s: Iterable[float] = ()) -> None:
        """Compare the steps of which all is known; ``computing_since_s`` of prefill workers that are not done yet."""
        self._forget_old(now_s)
        ready = [step for step in self._steps if step.until_s <= now_s - _LATER_S]
        if len(ready) < _WORTH_STEPS:
            return
        del self._steps[: len(ready)]
        times = [time for each in self._computing.values() for time in each]
        beside = _Beside([*times, *((since_s, now_s) for since_s in computing_since_s if since_s < now_s)])
        seen: dict[Hashable, tuple[list[float], list[float]]] = {}
        for step in ready:
            computing = beside.mean(step.until_s - step.step_s, step.until_s)
            quiet, busy = seen.setdefault(step.kind, ([], []))
            line = self._quiet.setdefault(step.worker_id, LineMeter(_LINE_MEMORY))
            longer = min(step.step_s / line.line(step.requests), MOST_AT_ONCE) - 1 if line.samples else 0.0
            if computing < _PART:
                quiet.append(longer)
                line.add(step.requests, step.step_s)
            elif computing > 1 - _PART and line.samples >= _LEAST_STEPS:
                busy.append(longer / computing)
        for kind, (quiet, busy) in seen.items():
            self._sides.setdefault(kind, _Sides()).add(quiet, busy, now_s)

    def crowding(self, kind: Hashable, now_s: float) -> float:
        """By how much of itself a step takes longer for each prefill worker that computes; 0 where nothing tells."""
        sides = self._sides.get(kind)
        return sides.crowding(now_s) if sides is not None else 0.0

    def forget(self, worker_id: str) -> None:
        """The worker is gone."""
        self._computing.pop(worker_id, None)
        self._quiet.pop(worker_id, None)
        self._steps = [step for step in self._steps if step.worker_id != worker_id]

    def _forget_old(self, now_s: float) -> None:
        """However few steps there are to compare: where every answer has one token, decode makes none."""
        for worker_id, times in list(self._computing.items()):
            _drop_old(times, now_s)
            if not times:
                del self._computing[worker_id]
        self._steps = [step for step in self._steps if step.until_s - step.step_s > now_s - _OLD_S]


def _drop_old(times: deque[tuple[float, float]], now_s: float) -> None:
    """Of one worker, in the order of ends."""
    while times and times[0][1] <= now_s - _OLD_S:
        times.popleft()


@dataclass(frozen=True, slots=True)
class _Step:
    worker_id: str
    kind: Hashable
    requests: int
    step_s: float
    until_s: float


class _Beside:
    """How many are busy at a time, from when each was."""

    def __init__(self, times: Iterable[tuple[float, float]]) -> None:
        changes = sorted(change for since_s, until_s in times for change in ((since_s, 1), (until_s, -1)))
        self._at_s = [at_s for at_s, _ in changes]
        self._busy = [0]
        self._area = [0.0]  # Of workers by seconds, before each change.
        for number, (at_s, change) in enumerate(changes):
            if number:
                self._area.append(self._area[-1] + self._busy[-1] * (at_s - self._at_s[number - 1]))
            self._busy.append(self._busy[-1] + change)

    def mean(self, since_s: float, until_s: float) -> float:
        """Workers that were busy, in the mean over this time."""
        return (self._until(until_s) - self._until(since_s)) / (until_s - since_s)

    def _until(self, at_s: float) -> float:
        number = bisect_right(self._at_s, at_s)
        return self._area[number - 1] + self._busy[number] * (at_s - self._at_s[number - 1]) if number else 0.0


@dataclass(slots=True)
class _Mean:
    """With fading memory."""

    looks: int = 0
    _n: float = 0.0
    _nn: float = 0.0
    _x: float = 0.0
    _xx: float = 0.0

    def add(self, x: float) -> None:
        self.looks += 1
        self._n = _MEMORY * self._n + 1
        self._nn = _MEMORY**2 * self._nn + 1
        self._x = _MEMORY * self._x + x
        self._xx = _MEMORY * self._xx + x * x

    @property
    def mean(self) -> float:
        return self._x / self._n

    @property
    def error(self) -> float:
        """The standard error, squared."""
        independent = self._n**2 / self._nn
        return max(0.0, self._xx / self._n - self.mean**2) / max(1.0, independent - 1)


@dataclass(slots=True)
class _Sides:
    quiet: _Mean = field(default_factory=_Mean)
    busy: _Mean = field(default_factory=_Mean)
    busy_at_s: float = 0.0

    def add(self, quiet: Sequence[float], busy: Sequence[float], now_s: float) -> None:
        if now_s - self.busy_at_s > _FORGET_S:
            self.busy = _Mean()
        for side, longer in ((self.quiet, quiet), (self.busy, busy)):
            if len(longer) >= _LEAST_STEPS:
                side.add(sum(longer) / len(longer))
        if len(busy) >= _LEAST_STEPS:
            self.busy_at_s = now_s

    def crowding(self, now_s: float) -> float:
        few = min(self.quiet.looks, self.busy.looks) < _LEAST_LOOKS
        if few or now_s - self.busy_at_s > _FORGET_S:
            return 0.0
        longer = self.busy.mean - self.quiet.mean
        return longer if longer > max(_LEAST, _ERRORS * sqrt(self.quiet.error + self.busy.error)) else 0.0
