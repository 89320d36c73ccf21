"""Straight lines through measurements: a fixed part, and a part for each token, byte or request."""

from __future__ import annotations

from dataclasses import dataclass

# Of what was known before, this much remains with each measurement: some 20 measurements back count.
MEMORY = 0.95
# A stall (a machine that swaps, a stopped process) would otherwise be remembered for a hundred requests. What has
# really become slower is believed within a few.
MOST_AT_ONCE = 4.0
# With sizes that hardly differ nothing can be told of the fixed part.
_LEAST_SPREAD = 0.02
# The part for each unit is never taken for less than this much of the mean: what short prompts take is mostly fixed,
# and noise among them must not make long ones look free.
_LEAST_SLOPE = 0.05


@dataclass(frozen=True, slots=True)
class Line:
    """Seconds for ``x`` units. ``samples`` 0: nothing has been measured, and every answer is 0. ``reach`` is the most
    units that have been measured: far beyond it the line is a guess."""

    fixed_s: float = 0.0
    each_s: float = 0.0
    samples: int = 0
    reach: float = 0.0

    def __call__(self, x: float) -> float:
        return self.fixed_s + self.each_s * x

    def __bool__(self) -> bool:
        return self.samples > 0


NOTHING = Line()


class LineMeter:
    """Least squares with fading memory, in constant space."""

    def __init__(self, memory: float = MEMORY) -> None:
        self._memory = memory
        self._samples = 0
        self._reach = 0.0
        self._n = self._x = self._y = self._xx = self._xy = 0.0
        self._line: Line | None = NOTHING

    def add(self, x: float, seconds: float) -> None:
        """One measurement. One far above what was expected counts as less than it is."""
        if x <= 0 or seconds <= 0:
            return
        if self._samples:
            seconds = min(seconds, MOST_AT_ONCE * self.line(x))
        keep = self._memory
        self._n = keep * self._n + 1
        self._x = keep * self._x + x
        self._y = keep * self._y + seconds
        self._xx = keep * self._xx + x * x
        self._xy = keep * self._xy + x * seconds
        self._samples += 1
        self._reach = max(self._reach, x)
        self._line = None

    @property
    def samples(self) -> int:
        return self._samples

    @property
    def line(self) -> Line:
        if self._line is None:
            self._line = self._fit()
        return self._line

    def _fit(self) -> Line:
        x, y = self._x / self._n, self._y / self._n
        spread = self._xx / self._n - x * x
        proportional = y / x
        if spread < (_LEAST_SPREAD * x) ** 2:
            return Line(0.0, proportional, self._samples, self._reach)
        slope = (self._xy / self._n - x * y) / spread
        slope = min(max(slope, _LEAST_SLOPE * proportional), proportional)
        return Line(y - slope * x, slope, self._samples, self._reach)


class Faded:
    """A sum in which older terms count for less."""

    def __init__(self) -> None:
        self.total = 0.0

    def add(self, term: float) -> None:
        self.total = MEMORY * self.total + term
