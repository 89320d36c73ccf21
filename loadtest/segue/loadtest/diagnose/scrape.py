"""What a /metrics page said, and what changed between two looks at it. Does no I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]


@dataclass(frozen=True)
class Scrape:
    """Samples by name and labels. ``at_s`` is when it was taken, by any clock that the other look shares."""

    at_s: float
    samples: Mapping[tuple[str, Labels], float]

    @classmethod
    def parse(cls, text: str, at_s: float) -> Scrape:
        """Raises ValueError for what is not Prometheus's text format."""
        samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
        return cls(at_s, samples)

    def values(self, name: str, **labels: str) -> Iterator[tuple[Mapping[str, str], float]]:
        """Samples of a name that have these labels, among others."""
        wanted = labels.items()
        for (found, pairs), value in self.samples.items():
            if found == name and wanted <= pairs:
                yield dict(pairs), value

    def total(self, name: str, **labels: str) -> float:
        return math.fsum(value for _, value in self.values(name, **labels))


@dataclass(frozen=True)
class Window:
    """Two looks at one process, the later one second."""

    before: Scrape
    after: Scrape

    @property
    def seconds(self) -> float:
        return self.after.at_s - self.before.at_s

    def rate(self, name: str, **labels: str) -> float:
        """A counter's growth a second, summed over its other labels."""
        grown = self.after.total(name, **labels) - self.before.total(name, **labels)
        return max(0.0, grown) / self.seconds if self.seconds > 0 else 0.0

    def mean(self, histogram: str, **labels: str) -> float | None:
        """Of the observations in between; None if there were none."""
        count = self.rate(f"{histogram}_count", **labels)
        return self.rate(f"{histogram}_sum", **labels) / count if count else None

    def quantile(self, histogram: str, share: float) -> float | None:
        """Of the observations in between: the upper bound of the bucket that holds it; None if there were none."""
        grown: dict[float, float] = {}
        for labels, value in self.after.values(f"{histogram}_bucket"):
            edge = float(labels["le"])
            grown[edge] = grown.get(edge, 0.0) + value
        for labels, value in self.before.values(f"{histogram}_bucket"):
            edge = float(labels["le"])
            grown[edge] = grown.get(edge, 0.0) - value
        edges = sorted(grown)
        if not edges or grown[edges[-1]] <= 0:
            return None
        wanted = share * grown[edges[-1]]
        found = next(edge for edge in edges if grown[edge] >= wanted)
        finite = [edge for edge in edges if math.isfinite(edge)]
        return found if math.isfinite(found) else (finite[-1] if finite else None)

    def gauge(self, name: str, **labels: str) -> float | None:
        """A gauge's mean over the two looks, summed over its other labels; None where it doesn't exist."""
        looks = [list(look.values(name, **labels)) for look in (self.before, self.after)]
        if not looks[1]:
            return None
        return math.fsum(value for look in looks for _, value in look) / sum(bool(look) for look in looks)

    def highest(self, name: str, **labels: str) -> float | None:
        """The highest of a gauge's samples at the second look."""
        return max((value for _, value in self.after.values(name, **labels)), default=None)
