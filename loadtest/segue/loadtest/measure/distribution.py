"""The figures that stand for many values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Distribution:
    """Percentiles are interpolated between values, as numpy and aiperf do. ``count`` 0: all others are 0."""

    count: int
    mean: float = 0.0
    p50: float = 0.0
    p90: float = 0.0
    p95: float = 0.0
    p99: float = 0.0
    max: float = 0.0

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64]) -> Self:
        data = np.asarray(values, np.float64)
        if not data.size:
            return cls(0)
        p50, p90, p95, p99 = np.percentile(data, (50, 90, 95, 99)).tolist()
        return cls(int(data.size), float(data.mean()), p50, p90, p95, p99, float(data.max()))
