"""Frames to one router: what piles up while a write is under way goes out as one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from segue.proto.worker_pb2 import Load, RequestOutput, Status, WorkerFrame


class Outbox:
    """At most one frame waits; everything said meanwhile is added to it. Load and status: the latest counts."""

    def __init__(self) -> None:
        self._frame = WorkerFrame()
        self._filled = asyncio.Event()
        self._sent = asyncio.Event()
        self._sent.set()

    def put_outputs(self, outputs: Iterable[RequestOutput]) -> None:
        self._frame.outputs.extend(outputs)
        self._fill()

    def put_load(self, load: Load) -> None:
        self._frame.load.CopyFrom(load)
        self._fill()

    def put_status(self, status: Status) -> None:
        self._frame.status.CopyFrom(status)
        self._fill()

    async def take(self) -> WorkerFrame:
        """The waiting frame, as soon as there is one. Call ``mark_sent`` once it is written."""
        await self._filled.wait()
        frame, self._frame = self._frame, WorkerFrame()
        self._filled.clear()
        return frame

    def mark_sent(self) -> None:
        """The frame last taken is written."""
        if not self._filled.is_set():
            self._sent.set()

    async def flushed(self) -> None:
        """Until everything that was put in is written."""
        await self._sent.wait()

    def _fill(self) -> None:
        self._filled.set()
        self._sent.clear()
