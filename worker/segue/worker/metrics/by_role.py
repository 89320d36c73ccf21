"""What an engine has counted, by the role in which it did: engines count on over a turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from segue.base.metrics import Labels
from segue.proto.worker_pb2 import EngineCounters, Register, Role
from segue.worker.observer import WorkerObserver

_SUMS = ("requests", "input_tokens", "cached_tokens", "transferred_tokens", "computed_tokens", "generated_tokens")


def labels_of(register: Register) -> Labels:
    """A worker and its pool."""
    return register.worker_id, Role.Name(register.role).removeprefix("ROLE_").lower()


class CountersByRole(WorkerObserver):
    """``count`` gives the engine's counters since its start. Each role's own never shrink, as Prometheus wants it."""

    def __init__(self, register: Register, count: Callable[[], EngineCounters]) -> None:
        self._count = count
        self._labels = labels_of(register)
        self._before = EngineCounters()
        self._by_role: dict[Labels, EngineCounters] = {}

    def on_role(self, register: Register) -> None:
        self.read()
        self._labels = labels_of(register)

    def read(self) -> Mapping[Labels, EngineCounters]:
        """Of each role that the worker has had, under its labels."""
        now, own = self._count(), self._by_role.setdefault(self._labels, EngineCounters())
        for name in _SUMS:
            seen, before = getattr(now, name), getattr(self._before, name)
            forgotten = seen < before  # Its warm-up, with which no role has begun yet.
            setattr(own, name, seen if forgotten else getattr(own, name) + seen - before)
        self._before = now
        return self._by_role
