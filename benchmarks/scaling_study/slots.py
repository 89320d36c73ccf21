"""Running requests as arrays: a tick costs the same for ten of them as for a thousand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scaling_study.rates import TICK_S, Rates
from scaling_study.traffic import Arrival


@dataclass(frozen=True, slots=True)
class Running:
    """A request whose first token was out at ``first_s``."""

    arrival: Arrival
    first_s: float

    @property
    def needs_tokens(self) -> int:
        """What its KV will take in the end, reserved from the start."""
        lengths = self.arrival.lengths
        return lengths.prompt_tokens + lengths.output_tokens


class Slots:
    """The first ``len(self)`` entries of every array are in use; the last one takes the place of one that ends."""

    def __init__(self, size: int = 8192) -> None:
        self._running: list[Running] = []
        self._worker = np.zeros(size, dtype=np.int64)
        self._context = np.zeros(size)
        self._left = np.zeros(size)
        self._starts_s = np.zeros(size)
        self._reserved: dict[int, int] = {}
        self._counts: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._running)

    def take(self, worker: int, running: Running, starts_s: float) -> None:
        slot, lengths = len(self._running), running.arrival.lengths
        self._running.append(running)
        self._worker[slot] = worker
        self._context[slot] = lengths.prompt_tokens
        self._left[slot] = lengths.output_tokens - 1
        self._starts_s[slot] = starts_s
        self._count(worker, 1, running.needs_tokens)

    def advance(self, rates: Rates, now_s: float) -> list[tuple[Running, float]]:
        """Give every request the tokens of one tick; those that ended, and when."""
        size = len(self._running)
        if not size:
            return []
        workers, contexts, left = self._worker[:size], self._context[:size], self._left[:size]
        context = np.bincount(workers, weights=contexts)
        step_s = rates.step_s(np.bincount(workers), context)[workers]
        had_s = now_s - self._starts_s[:size]
        np.clip(had_s, 0.0, TICK_S, out=had_s)
        had_s /= step_s  # From here on tokens.
        left -= had_s
        contexts += had_s
        over = np.flatnonzero(left <= 0)
        if not over.size:
            return []
        at_s = now_s + left[over] * step_s[over]
        ended = [(self._running[slot], float(when)) for slot, when in zip(over, at_s, strict=True)]
        for slot in over[::-1]:  # From the end, so that what moves into a gap has not ended itself.
            self._free(int(slot))
        return ended

    def move(self, running: Running, worker: int, starts_s: float) -> None:
        """To another worker, where it goes on from what it has."""
        slot = self._running.index(running)
        self._count(int(self._worker[slot]), -1, -running.needs_tokens)
        self._worker[slot] = worker
        self._starts_s[slot] = starts_s
        self._count(worker, 1, running.needs_tokens)

    def count(self, worker: int) -> int:
        return self._counts.get(worker, 0)

    def reserved(self, worker: int) -> int:
        return self._reserved.get(worker, 0)

    def of(self, worker: int) -> list[Running]:
        slots = np.flatnonzero(self._worker[: len(self._running)] == worker)
        return [self._running[slot] for slot in slots]

    def mean_context(self) -> float:
        size = len(self._running)
        return float(self._context[:size].mean()) if size else 0.0

    def _free(self, slot: int) -> None:
        running = self._running[slot]
        self._count(int(self._worker[slot]), -1, -running.needs_tokens)
        last = len(self._running) - 1
        for array in (self._worker, self._context, self._left, self._starts_s):
            array[slot] = array[last]
        self._running[slot] = self._running[last]
        self._running.pop()

    def _count(self, worker: int, requests: int, tokens: int) -> None:
        self._counts[worker] = self._counts.get(worker, 0) + requests
        self._reserved[worker] = self._reserved.get(worker, 0) + tokens
