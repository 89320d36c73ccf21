"""Frames to one router: what piles up while a write is under way goes out as one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence

from segue.proto.worker_pb2 import KvEvent, Load, RequestOutput, RouterBacklog, RouterBacklogs, Status, WorkerFrame
from segue.worker.kv_feed import KvFeed
from segue.worker.token_columns import TokenColumns

# Changes of the cache that come with no output for this router wait this long for company: each frame costs both ends
# some 150 us, and several routers would each get one for every step.
_KV_EVENTS_WAIT_S = 0.05


class Outbox:
    """At most one frame waits; everything said meanwhile is added to it. Of load, status and other routers the latest
    counts.

    A large snapshot of the prefix cache goes out in several frames, between which tokens go on.
    """

    def __init__(self) -> None:
        self._frame = WorkerFrame()
        self._kv: KvFeed | None = None
        self.columns = TokenColumns()
        self._filled = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()

    def put_outputs(self, outputs: Iterable[RequestOutput]) -> None:
        self.columns.add(outputs, self._frame)
        self._fill()

    def put_load(self, load: Load) -> None:
        self._frame.load.CopyFrom(load)
        self._fill()

    def put_other_routers(self, backlogs: Iterable[RouterBacklog]) -> None:
        self._frame.other_routers.CopyFrom(RouterBacklogs(routers=backlogs))
        self._fill()

    def put_status(self, status: Status) -> None:
        self._frame.status.CopyFrom(status)
        self._fill()

    def start_kv_events(self, snapshot: Callable[[], Sequence[KvEvent]]) -> None:
        """Send the prefix cache as it is, and from then on what changes."""
        self._kv = self._kv or KvFeed(snapshot)
        self._kv.restart()
        self._fill()

    def put_kv_events(self, events: Iterable[KvEvent]) -> None:
        """Left out before the first snapshot, which will have them."""
        if self._kv is None:
            return
        self._kv.put(events)
        if not self._filled.is_set():
            asyncio.get_running_loop().call_later(_KV_EVENTS_WAIT_S, self._fill_with_kv_events)

    async def take(self) -> WorkerFrame:
        """The waiting frame, as soon as there is one. Call ``mark_sent`` once it is written."""
        await self._filled.wait()
        frame, self._frame = self._frame, WorkerFrame()
        self._filled.clear()
        self.columns.next_frame()
        if self._kv is not None and not self._kv.empty:
            frame.kv_events.CopyFrom(self._kv.take())
            if not self._kv.empty:
                self._fill()
        return frame

    def mark_sent(self) -> None:
        """The frame last taken is written."""
        if not self._filled.is_set():
            self._sent.set()

    async def flushed(self) -> None:
        """Until everything that was put in is written."""
        await self._sent.wait()

    def _fill_with_kv_events(self) -> None:
        if self._kv is not None and not self._kv.empty:
            self._fill()

    def _fill(self) -> None:
        self._filled.set()
        self._sent.clear()
