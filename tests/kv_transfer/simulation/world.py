"""A clock that jumps from event to event, and a link that loses, delays, repeats and reorders."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


class Violation(AssertionError):
    """The hand-off broke one of its promises."""


@dataclass(frozen=True, slots=True)
class Faults:
    """Probabilities of one schedule; delays and times are in seconds."""

    loss: float
    repeat: float
    late: float  # That a message takes as long as a lease or longer; if any does, others overtake each other too.
    corrupt: float  # That a chunk, or a block that is read, arrives with a bit flipped.
    crash: float  # That a process is killed at some time of the schedule.
    cancel: float  # That the client goes away.

    @classmethod
    def draw(cls, rng: random.Random) -> Faults:
        """Each kind is absent in about half of the schedules, so that others are seen alone too."""
        worst = (0.3, 0.3, 0.2, 0.2, 0.7, 0.5)
        return cls(*(0.0 if rng.random() < 0.5 else rng.random() * most for most in worst))


CALM = Faults(0, 0, 0, 0, 0, 0)


class World:
    """Runs what is due in order of time. Everything random comes from ``seed``."""

    def __init__(self, seed: int, faults: Faults | None = None) -> None:
        self.rng = random.Random(seed)
        self.faults = Faults.draw(self.rng) if faults is None else faults
        self.now_s = 0.0
        self._due: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._number = 0

    def after(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self._number += 1
        heapq.heappush(self._due, (self.now_s + delay_s, self._number, call, args))

    def soon(self, call: Callable[..., None], *args: Any) -> None:
        """Within a step of an engine or two."""
        self.after(self.rng.random() * 0.1, call, *args)

    def send(self, call: Callable[..., None], *args: Any) -> None:
        """Over the link: ``call`` happens at the other end, if it does."""
        rng, faults = self.rng, self.faults
        while True:
            if rng.random() >= faults.loss:
                delay_s = 0.02
                if faults.late:  # Without it messages arrive in order.
                    delay_s = rng.random() * (6.0 if rng.random() < faults.late else 0.05)
                self.after(delay_s, call, *args)
            if not faults.repeat or rng.random() >= faults.repeat:
                return

    def run(self) -> None:
        due = self._due
        while due:
            self.now_s, _, call, args = heapq.heappop(due)
            call(*args)
