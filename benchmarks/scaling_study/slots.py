"""Running requests as arrays: a tick costs the same for ten of them as for a thousand."""

from __future__ import annotations

import numpy as np
from scaling_study.rates import TICK_S, Rates
from scaling_study.traffic import Lengths


class Slots:
    """Each request has a slot, which names it until it ends."""

    def __init__(self, size: int = 4096) -> None:
        self._worker = np.full(size, -1)
        self._context = np.zeros(size)
        self._left = np.zeros(size)
        self._starts_s = np.zeros(size)
        self._reserved: dict[int, float] = {}
        self._needs = np.zeros(size)
        self._counts: dict[int, int] = {}
        self._free = list(range(size - 1, -1, -1))

    def take(self, worker: int, lengths: Lengths, starts_s: float) -> int:
        slot = self._free.pop()
        self._worker[slot] = worker
        self._context[slot] = lengths.prompt_tokens
        self._left[slot] = lengths.output_tokens - 1
        self._starts_s[slot] = starts_s
        self._needs[slot] = lengths.prompt_tokens + lengths.output_tokens
        self._count(worker, 1, self._needs[slot])
        return slot

    def move(self, slot: int, worker: int, starts_s: float) -> None:
        self._count(int(self._worker[slot]), -1, -self._needs[slot])
        self._worker[slot] = worker
        self._starts_s[slot] = starts_s
        self._count(worker, 1, self._needs[slot])

    def advance(self, rates: Rates, now_s: float) -> list[tuple[int, float]]:
        """Give every request the tokens of one tick; those that ended, and when."""
        slots = np.flatnonzero(self._worker >= 0)
        if not slots.size:
            return []
        workers = self._worker[slots]
        size = int(workers.max()) + 1
        context = np.bincount(workers, weights=self._context[slots], minlength=size)
        batch = np.bincount(workers, minlength=size)
        step_s = rates.step_s(batch, context)[workers]
        had_s = np.clip(now_s - self._starts_s[slots], 0.0, TICK_S)
        tokens = had_s / step_s
        left = self._left[slots] - tokens
        self._left[slots] = left
        self._context[slots] += tokens
        ended = left <= 0
        over = slots[ended]
        at_s = now_s + left[ended] * step_s[ended]
        for slot in over:
            worker = int(self._worker[slot])
            self._count(worker, -1, -self._needs[slot])
            self._worker[slot] = -1
            self._free.append(int(slot))
        return [(int(slot), float(when)) for slot, when in zip(over, at_s, strict=True)]

    def count(self, worker: int) -> int:
        return self._counts.get(worker, 0)

    def reserved(self, worker: int) -> float:
        return self._reserved.get(worker, 0.0)

    def of(self, worker: int) -> list[int]:
        return [int(slot) for slot in np.flatnonzero(self._worker == worker)]

    def mean_context(self) -> float:
        running = self._worker >= 0
        return float(self._context[running].mean()) if running.any() else 0.0

    def _count(self, worker: int, requests: int, tokens: float) -> None:
        self._counts[worker] = self._counts.get(worker, 0) + requests
        self._reserved[worker] = self._reserved.get(worker, 0.0) + tokens
