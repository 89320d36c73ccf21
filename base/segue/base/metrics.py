"""Counting, and what was counted in Prometheus's form. Nothing here is global: a process makes its own.

prometheus-client's own counters take a lock and a microsecond per observation, of which a router makes one per token.
Here an observation is an append; numpy sorts some thousands of them into buckets at once. prometheus-client writes the
result out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.utils import floatToGoString

Labels = tuple[str, ...]

# So many observations wait to be counted: a few hundred kilobytes at most, and numpy's fixed cost spread thin.
_PENDING = 4096


@dataclass(frozen=True, slots=True)
class Metric:
    """One exported name. ``help`` is one sentence; ``buckets`` are a histogram's upper bounds, without infinity."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if (self.kind == "counter") != self.name.endswith("_total"):
            raise ValueError(f"{self.name} is a {self.kind}; counters, and only they, end in _total")
        if (self.kind == "histogram") != bool(self.buckets):
            raise ValueError(f"{self.name} is a {self.kind}; histograms, and only they, have buckets")


class Counter:
    """Sums by their labels' values."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.values: dict[Labels, float] = defaultdict(float)

    def add(self, amount: float, *labels: str) -> None:
        self.values[labels] += amount

    def family(self) -> Family:
        family = CounterMetricFamily(self.metric.name, self.metric.help, labels=self.metric.labels)
        for labels, value in self.values.items():
            family.add_metric(labels, value)
        return family


class Buckets:
    """One histogram's observations with the same labels: how many were at most each bound, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = np.asarray(bounds)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        self._pending: list[float] = []

    def observe(self, value: float) -> None:
        self._pending.append(value)
        if len(self._pending) >= _PENDING:
            self._count()

    def observe_all(self, values: Sequence[float]) -> None:
        self._pending.extend(values)
        if len(self._pending) >= _PENDING:
            self._count()

    @property
    def counts(self) -> np.ndarray:
        """Observations in each bucket alone; the last one is what lies beyond all bounds. A copy."""
        self._count()
        return self._counts.copy()

    @property
    def sum(self) -> float:
        self._count()
        return self._sum

    def _count(self) -> None:
        if not self._pending:
            return
        values = np.array(self._pending)
        self._pending.clear()
        places = self._bounds.searchsorted(values)  # The first bound that is not below the value.
        self._counts += np.bincount(places, minlength=len(self._counts))
        self._sum += float(values.sum())


class Histogram:
    """Observations by their labels' values."""

    def __init__(self, metric: Metric) -> None:
        self.metric = metric
        self.buckets: dict[Labels, Buckets] = {}

    def observe(self, value: float, *labels: str) -> None:
        (self.buckets.get(labels) or self.at(*labels)).observe(value)

    def at(self, *labels: str) -> Buckets:
        found = self.buckets.get(labels)
        if found is None:
            found = self.buckets[labels] = Buckets(self.metric.buckets)
        return found

    def family(self) -> Family:
        metric = self.metric
        family = HistogramMetricFamily(metric.name, metric.help, labels=metric.labels)
        bounds = [*map(floatToGoString, metric.buckets), "+Inf"]
        for labels, buckets in self.buckets.items():
            family.add_metric(labels, list(zip(bounds, buckets.counts.cumsum().tolist(), strict=True)), buckets.sum)
        return family


Reading = Mapping[Labels, float]


def read_family(metric: Metric, values: Reading) -> Family:
    """A gauge, or a counter that someone else counts, as it is now."""
    family: GaugeMetricFamily | CounterMetricFamily
    if metric.kind == "gauge":
        family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
    else:
        family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


class Exposition:
    """What one process exports: its counters and histograms, and readings that are taken when somebody looks.

    Readings name only what there is now, so that a worker that has left is gone from the next look.
    """

    def __init__(self) -> None:
        self._counted: list[Counter | Histogram] = []
        self._readers: list[Callable[[], Mapping[Metric, Reading]]] = []

    def counter(self, metric: Metric) -> Counter:
        counter = Counter(metric)
        self._counted.append(counter)
        return counter

    def histogram(self, metric: Metric) -> Histogram:
        histogram = Histogram(metric)
        self._counted.append(histogram)
        return histogram

    def read(self, reader: Callable[[], Mapping[Metric, Reading]]) -> None:
        """Have ``reader`` asked at each look, on the event loop."""
        self._readers.append(reader)

    def collect(self) -> Iterator[Family]:
        for counted in self._counted:
            yield counted.family()
        for reader in self._readers:
            for metric, values in reader().items():
                yield read_family(metric, values)


def quantile(bounds: Sequence[float], counts: Iterable[int], q: float) -> float:
    """The q-quantile of observations that were counted into buckets, by straight lines between bounds.

    As Prometheus's ``histogram_quantile``: the lowest bucket begins at 0, and what lies beyond all bounds counts as the
    last bound. 0 without observations.
    """
    in_buckets = list(counts)
    wanted = q * sum(in_buckets)
    below, low = 0, 0.0
    for bound, count in zip(bounds, in_buckets, strict=False):
        if count and below + count >= wanted:
            return low + (bound - low) * (wanted - below) / count
        below += count
        low = bound
    return low if below < sum(in_buckets) or below else 0.0
