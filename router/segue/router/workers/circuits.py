"""Circuit breakers: which workers fail what they are given, and are to be spared for a while. Pure; clock passed in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

_REMEMBERED = 1024


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """A worker that fails ``failures`` requests in a row gets none for ``open_s``, then one; if that one fails too,
    none for twice as long, up to ``open_max_s``."""

    failures: int = 3
    open_s: float = 1.0
    open_max_s: float = 30.0


@dataclass(slots=True)
class _Circuit:
    failures: int = 0
    open_until_s: float = 0.0
    open_s: float = 0.0


class Circuits:
    """One breaker for each worker that has failed lately. An answered request closes its worker's breaker.

    Breakers advise: a planner with no other worker left uses one whose breaker is open (see ``planner``), because
    refusing everything is worse than trying.
    """

    def __init__(self, policy: CircuitPolicy | None = None) -> None:
        self._policy = policy or CircuitPolicy()
        self._circuits: dict[str, _Circuit] = {}

    @property
    def workers(self) -> Collection[str]:
        """That have failed lately."""
        return self._circuits.keys()

    def failed(self, worker_id: str, now_s: float) -> None:
        policy = self._policy
        circuit = self._circuits.setdefault(worker_id, _Circuit())
        circuit.failures += 1
        if circuit.failures >= policy.failures and now_s >= circuit.open_until_s:
            circuit.open_s = min(2 * circuit.open_s or policy.open_s, policy.open_max_s)
            circuit.open_until_s = now_s + circuit.open_s
        if len(self._circuits) > _REMEMBERED:
            del self._circuits[next(iter(self._circuits))]

    def succeeded(self, worker_id: str) -> None:
        self._circuits.pop(worker_id, None)

    def spares(self, worker_id: str, assigned_requests: int, now_s: float) -> bool:
        """Whether a worker with this much work of ours should get none now."""
        circuit = self._circuits.get(worker_id)
        if circuit is None or circuit.failures < self._policy.failures:
            return False
        return now_s < circuit.open_until_s or assigned_requests > 0  # Half open: one at a time.
