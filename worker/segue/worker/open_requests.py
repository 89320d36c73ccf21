"""The requests a worker has taken on: whose each one is, and when its time is up. No I/O, clock passed in."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Generic, TypeVar

Owner = TypeVar("Owner")

# The router speaks first at a deadline; a worker ends a request only if its router can't. With the interval at which
# due requests are looked for, nothing is open a second after its deadline.
DEADLINE_GRACE_S = 0.5


@dataclass(frozen=True, slots=True)
class _Open(Generic[Owner]):
    owner: Owner
    due_at_s: float


class OpenRequests(Generic[Owner]):
    """Requests by id. ``timeout_s`` of 0 or less stands for a request without a deadline."""

    def __init__(self) -> None:
        self._open: dict[str, _Open[Owner]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._open

    def add(self, request_id: str, owner: Owner, timeout_s: float, now_s: float) -> None:
        due_at_s = now_s + timeout_s + DEADLINE_GRACE_S if timeout_s > 0 else math.inf
        self._open[request_id] = _Open(owner, due_at_s)

    def owner_of(self, request_id: str) -> Owner | None:
        known = self._open.get(request_id)
        return None if known is None else known.owner

    def close(self, request_id: str) -> bool:
        """Forget a request; whether it was open."""
        return self._open.pop(request_id, None) is not None

    def of(self, owner: Owner) -> list[str]:
        return [request_id for request_id, known in self._open.items() if known.owner is owner]

    def all(self) -> list[str]:
        return list(self._open)

    def due(self, now_s: float) -> list[str]:
        """Those whose deadline, and the grace after it, have passed."""
        return [request_id for request_id, known in self._open.items() if known.due_at_s <= now_s]
