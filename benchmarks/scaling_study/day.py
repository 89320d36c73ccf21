"""When requests come: a day, compressed.

``recorded``: at the times of the traces. The hour of each is laid over the day, and each of its requests comes so many
times as make the wanted mean rate, with its own lengths, within the same minute of the recorded hour. ``curve``: one
smooth peak a kind, completions at noon and conversations in the evening, with the traces' lengths one after the other.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Literal, get_args

from scaling_study.traffic import Arrival, Kind

DAY_H = 24.0
_TRACE_S = 3600.0
_JITTER_S = 60.0  # Of the recorded hour: copies of one request must not come in one instant.

Shape = Literal["curve", "recorded"]
SHAPE_NAMES: tuple[Shape, ...] = get_args(Shape)
Traces = Mapping[Kind, Sequence[Arrival]]


@dataclass(frozen=True, slots=True)
class Day:
    """``seconds`` is what a day is compressed to; the means are requests a second of each kind."""

    seconds: float
    shape: Shape
    conversation_mean: float
    code_mean: float
    seed: int = 1

    def arrivals(self, traces: Traces) -> list[Arrival]:
        """In order of time."""
        rng = random.Random(self.seed)
        come = self._recorded if self.shape == "recorded" else self._curve
        found = [arrival for kind in SHAPES for arrival in come(kind, traces[kind], rng)]
        return sorted(found, key=lambda arrival: arrival.at_s)

    def rates(self, kind: Kind, traces: Traces, bins: int = 60) -> list[float]:
        """Expected requests a second in each part of the day."""
        mean = self.mean(kind)
        if self.shape == "curve":
            weights = [SHAPES[kind].at((index + 0.5) / bins * DAY_H) for index in range(bins)]
        else:
            weights = [0.0] * bins
            for arrival in traces[kind]:
                weights[min(bins - 1, int(arrival.at_s / _TRACE_S * bins))] += 1
        return [mean * weight * bins / sum(weights) for weight in weights]

    def mean(self, kind: Kind) -> float:
        return self.conversation_mean if kind == "conversation" else self.code_mean

    def _recorded(self, kind: Kind, trace: Sequence[Arrival], rng: random.Random) -> Iterator[Arrival]:
        scale = self.seconds / _TRACE_S
        copies = self.mean(kind) * self.seconds / len(trace)
        for entry in trace:
            for _ in range(_poisson(copies, rng)):
                at_s = (entry.at_s + rng.uniform(0, _JITTER_S)) * scale
                yield Arrival(at_s % self.seconds, entry.lengths)

    def _curve(self, kind: Kind, trace: Sequence[Arrival], rng: random.Random) -> Iterator[Arrival]:
        source, shape = cycle(trace), SHAPES[kind]
        most = self.mean(kind) / shape.mean
        at_s = 0.0
        while (at_s := at_s + rng.expovariate(most)) < self.seconds:
            if rng.random() < shape.at(at_s / self.seconds * DAY_H):
                yield Arrival(at_s, next(source).lengths)


@dataclass(frozen=True, slots=True)
class Peak:
    """A curve of the day that is 1 at its hour and never below ``least``."""

    hour: float
    least: float
    width_h: float = 4.0

    def at(self, hour: float) -> float:
        away_h = abs(hour - self.hour)
        away_h = min(away_h, DAY_H - away_h)  # The day is a circle.
        return self.least + (1 - self.least) * math.exp(-0.5 * (away_h / self.width_h) ** 2)

    @property
    def mean(self) -> float:
        return sum(self.at(index / 10) for index in range(240)) / 240


SHAPES: dict[Kind, Peak] = {"conversation": Peak(20.0, 0.15), "code": Peak(12.0, 0.03)}


def _poisson(mean: float, rng: random.Random) -> int:
    """How often, by counting intervals."""
    count, at = 0, rng.expovariate(1.0)
    while at < mean:
        count += 1
        at += rng.expovariate(1.0)
    return count
