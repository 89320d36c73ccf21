"""When each PDCluster is looked at: at once if something is heard of it, else after a while, later after failures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol

import aiohttp

from segue.base.logging import get_logger
from segue.operator.api import ApiError

log = get_logger("operator")

Key = tuple[str, str]  # Namespace and name.

# What a look may meet outside of us; anything else is a fault of the operator.
EXPECTED: Final = (ApiError, aiohttp.ClientError, OSError, TimeoutError)

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_MOST_DOUBLINGS = 10
# Changes come in flocks: one look for all of them.
_GATHER_S = 0.2


class Generations:
    """Whether an object was changed by others. What we write to its status is told to us, too, and must not make us
    look again: a status has figures that differ with every look. Kubernetes counts only changes of the rest."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[Any, Any]] = {}

    def changed(self, event: str | None, body: Mapping[str, Any]) -> bool:
        metadata = body["metadata"]
        uid, now = metadata["uid"], (metadata.get("generation"), metadata.get("deletionTimestamp"))
        if event == "DELETED":
            self._known.pop(uid, None)
            return True
        before, self._known[uid] = self._known.get(uid), now
        return before != now


class Looker(Protocol):
    """A :class:`~segue.operator.reconciler.Reconciler`."""

    async def look(self, namespace: str, name: str) -> float | None: ...


class Controller:
    """A task for each PDCluster: they don't wait for each other, and no two look at the same one."""

    def __init__(
        self,
        make: Callable[[], Looker],
        tasks: asyncio.TaskGroup,
        gather_s: float = _GATHER_S,
        first_pause_s: float = _FIRST_PAUSE_S,
    ) -> None:
        self._make = make
        self._first_pause_s = first_pause_s
        self._tasks = tasks
        self._gather_s = gather_s
        self._woken: dict[Key, asyncio.Event] = {}
        self._running: dict[Key, asyncio.Task[None]] = {}

    def wake(self, namespace: str, name: str) -> None:
        """Something has happened that concerns this PDCluster; it may have come or gone."""
        key = namespace, name
        self._woken.setdefault(key, asyncio.Event()).set()
        if key not in self._running:
            self._running[key] = self._tasks.create_task(self._keep(key), name=f"{namespace}/{name}")

    def stop(self) -> None:
        for task in self._running.values():
            task.cancel()

    async def _keep(self, key: Key) -> None:
        looker = self._make()
        failures = 0
        while True:
            self._woken[key].clear()
            try:
                again_s = await looker.look(*key)
            except Exception as error:  # Other clusters' tasks would end with this one's.
                again_s = min(_LONGEST_PAUSE_S, self._first_pause_s * 2 ** min(failures, _MOST_DOUBLINGS))
                failures += 1
                told = {"cluster": "/".join(key), "error": repr(error), "again_s": again_s}
                if isinstance(error, EXPECTED):
                    log.warning("look_failed", **told)
                else:  # A fault of ours.
                    log.exception("look_failed", **told)
            else:
                failures = 0
            if again_s is None:
                # No await since the look's end but that one: a wake in between has set the event, and is not lost.
                if self._woken[key].is_set():
                    continue
                del self._running[key], self._woken[key]
                return
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken[key].wait(), again_s)
                await asyncio.sleep(self._gather_s)
