"""Many requests on one call: for gateways, load tests and whoever has more than a few answers under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import grpc.aio

from segue.base.errors import SegueError, Unavailable
from segue.client.errors import from_code, from_rpc_error
from segue.client.messages import Delta, Prompt, build_request, finish_reason
from segue.proto.inference_pb2 import SessionRequest, SessionResponse, SessionStart

if TYPE_CHECKING:  # A name of the stubs for the type checker only.
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub

_Call = grpc.aio.StreamStreamCall[SessionRequest, SessionResponse]


class Session:
    """Answers on one call, as many at a time as the router takes.

    >>> async with client.session() as session:
    ...     async for delta in session.stream("Once upon a time", max_tokens=64):
    ...         print(delta.text, end="")

    An answer that nobody reads costs this process its memory; the router is not held up by it.
    """

    def __init__(self, stub: InferenceAsyncStub, metadata: tuple[tuple[str, str], ...]) -> None:
        self._stub = stub
        self._metadata = metadata
        self._inboxes: dict[int, _Inbox] = {}
        self._last_id = 0
        self._outgoing = SessionRequest()
        self._filled = asyncio.Event()
        self._end: SegueError | None = None

    async def __aenter__(self) -> Self:
        # Writing by hand needs no iterator.
        self._call: _Call = self._stub.Session(metadata=self._metadata)  # type: ignore[call-arg]
        self._tasks = [asyncio.create_task(work()) for work in (self._read, self._write)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._call.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._over(Unavailable("the session is closed"))

    async def stream(
        self,
        prompt: Prompt,
        *,
        model: str = "",
        n: int = 1,
        timeout_s: float | None = None,
        trace_parent: str = "",
        **sampling: Any,
    ) -> AsyncIterator[Delta]:
        """The answer as it forms. Leaving the loop early cancels the request and frees its workers.

        ``trace_parent`` is a W3C traceparent that the router's spans of this request are to belong under.

        Raises:
            SegueError: by what went wrong with this request, or with the whole session.
        """
        if self._end is not None:
            raise self._end
        self._last_id += 1
        id_ = self._last_id
        request = build_request(prompt, model, n, sampling)  # Raises for what is no request.
        inbox = self._inboxes[id_] = _Inbox()
        self._outgoing.start.append(
            SessionStart(id=id_, request=request, timeout_s=timeout_s or 0.0, trace_parent=trace_parent)
        )
        self._filled.set()
        try:
            while (deltas := await inbox.take()) is not None:
                for delta in deltas:
                    yield delta
        finally:
            if self._inboxes.pop(id_, None) is not None and not inbox.over:
                self._outgoing.cancel.append(id_)
                self._filled.set()

    async def _write(self) -> None:
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # Reading tells why.
            while True:
                await self._filled.wait()
                message, self._outgoing = self._outgoing, SessionRequest()
                self._filled.clear()
                await self._call.write(message)

    async def _read(self) -> None:
        try:
            while isinstance(message := await self._call.read(), SessionResponse):
                self._take(message)
            self._over(Unavailable("the router has ended the session"))
        except grpc.aio.AioRpcError as error:
            self._over(from_rpc_error(error))

    def _take(self, message: SessionResponse) -> None:
        for id_, token_id, text in zip(message.ids, message.token_ids, message.texts, strict=True):
            if (inbox := self._inboxes.get(id_)) is not None:
                inbox.put(Delta(0, text, (token_id,), None))
        for part in message.parts:
            if (inbox := self._inboxes.get(part.id)) is None:
                continue
            for choice in part.response.choices:
                reason = finish_reason(choice.finish_reason)
                inbox.put(Delta(choice.index, choice.text, tuple(choice.token_ids), reason))
            if part.response.HasField("usage"):
                inbox.end(None)
        for error in message.errors:
            if (inbox := self._inboxes.get(error.id)) is not None:
                inbox.end(from_code(error.code, error.status, error.message, error.retry_after_s or None))

    def _over(self, error: SegueError) -> None:
        self._end = self._end or error
        for inbox in self._inboxes.values():
            inbox.end(error)


class _Inbox:
    """What has come of one request and has not been read."""

    def __init__(self) -> None:
        self.over = False
        self._deltas: list[Delta] = []
        self._error: SegueError | None = None
        self._changed = asyncio.Event()

    def put(self, delta: Delta) -> None:
        self._deltas.append(delta)
        self._changed.set()

    def end(self, error: SegueError | None) -> None:
        if not self.over:
            self.over, self._error = True, error
            self._changed.set()

    async def take(self) -> list[Delta] | None:
        """What has come since the last call; None when that was all. Raises what ended the request."""
        while not self._deltas:
            if self.over:
                if self._error is not None:
                    raise self._error
                return None
            self._changed.clear()
            await self._changed.wait()
        deltas, self._deltas = self._deltas, []
        return deltas
