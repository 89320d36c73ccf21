"""A worker's lease, judged on the time in which this router was awake."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# Looks at a worker before its lease is over. Time that passes between two looks counts as one, however long it was.
_LOOKS = 5


class Lease:
    """Calls ``over`` once, when nothing has been heard for ``lease_s``, unless it is closed before.

    A router that stands still, stopped or on a machine that has no time for it, hears nothing either, while what its
    workers say waits unread. Were that held against them, it would lose all of them at once, and with the work of
    continuing their requests stand still again. So silence is counted in looks, each a timer of its own.
    """

    def __init__(self, lease_s: float, over: Callable[[], object]) -> None:
        self._interval_s = lease_s / _LOOKS
        self._over = over
        self._silent_looks = 0
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(self._interval_s, self._look)

    def renew(self) -> None:
        """It has been heard."""
        self._silent_looks = 0

    def close(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        self._silent_looks += 1
        if self._silent_looks >= _LOOKS:
            self._over()
            return
        self._timer = self._loop.call_later(self._interval_s, self._look)
