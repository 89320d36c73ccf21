"""The timing model of the simulated engine, as straight lines in batch and context."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scaling_study.traffic import Lengths

from segue.engine.simulated.timing import StepWork, Timing

TICK_S = 0.2
_MEMORY_UTILISATION = 0.9

Figures = NDArray[np.float64] | NDArray[np.int64]


class Rates:
    """Of one engine. ``kv_tokens`` fit into its cache."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing
        nothing = StepWork()
        self.memory_s = timing.memory_s(nothing)
        self.memory_s_per_token = timing.memory_s(StepWork(context_tokens=1)) - self.memory_s
        self.compute_s_per_request = timing.compute_s(StepWork(tokens=1, sampled=1))
        self.compute_s_per_token = timing.compute_s(StepWork(pairs=1))
        self.overhead_s = timing.efficiency.overhead_s
        self.overhead_s_per_request = timing.efficiency.overhead_per_request_s
        self.kv_tokens = timing.kv_tokens(_MEMORY_UTILISATION)
        self.transfer_s_per_token = timing.kv_bytes_per_token / timing.transfer_bytes_per_s()
        self._prefill_s: dict[tuple[int, int], float] = {}

    def prefill_s(self, lengths: Lengths) -> float:
        """Of one prompt alone. Kept: a trace is gone through many times."""
        known = lengths.cached_tokens, lengths.computed_tokens
        if known not in self._prefill_s:
            work = StepWork()
            work.add(*known, sampled=True)
            self._prefill_s[known] = self._timing.step_s(work)
        return self._prefill_s[known]

    def step_s(self, batch: Figures, context: Figures) -> NDArray[np.float64]:
        memory = self.memory_s + self.memory_s_per_token * context
        compute = self.compute_s_per_request * batch + self.compute_s_per_token * context
        return np.maximum(memory, compute) + self.overhead_s + self.overhead_s_per_request * batch

    def batch_within(self, itl_s: float, context_tokens: float) -> float:
        """The largest batch of requests of this context whose steps keep within ``itl_s`` and whose KV fits."""
        fits = self.kv_tokens / context_tokens
        steps = np.arange(1, max(2, int(fits) + 1), dtype=np.float64)
        within = self.step_s(steps, steps * context_tokens) <= itl_s
        return float(steps[within][-1]) if within.any() else 1.0
