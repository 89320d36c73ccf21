"""A drain's course: how long it may take and what it says of itself. No I/O, clock passed in."""

from __future__ import annotations

import math

from segue.proto.worker_pb2 import Load


class DrainClock:
    """Begun by a signal or an RPC. A later one that names a time sets the end anew; nothing else puts it off."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._ends_at_s: float | None = None

    @property
    def begun(self) -> bool:
        return self._ends_at_s is not None

    def begin(self, timeout_s: float, now_s: float) -> float:
        """Begin, or change the end; ``timeout_s`` 0 is the worker's own setting. Seconds left."""
        if timeout_s > 0 or self._ends_at_s is None:
            self._ends_at_s = now_s + (timeout_s if timeout_s > 0 else self._timeout_s)
        return self.left_s(now_s)

    def left_s(self, now_s: float) -> float:
        return math.inf if self._ends_at_s is None else max(0.0, self._ends_at_s - now_s)


def left_over(requests: int, load: Load) -> str:
    """For people: ``3 requests, 2 offers left``."""
    offers = load.held_offers
    return f"{requests} request{'' if requests == 1 else 's'}, {offers} offer{'' if offers == 1 else 's'} left"


def progress(why: str, left: str, left_s: float) -> str:
    """For people: ``draining: 3 requests, 2 offers left, 41 s``."""
    return f"{why}: {left}, {math.ceil(left_s)} s"
