"""``Inference.Session``: many requests on one call, and one message for the new tokens of all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from segue.base.errors import InternalError, InvalidRequest, Overloaded, SegueError
from segue.base.logging import get_logger
from segue.base.trace_parent import HEADER, TraceParent, parse_trace_parent
from segue.proto.inference_pb2 import (
    GenerateRequest,
    GenerateResponse,
    SessionRequest,
    SessionResponse,
    SessionStart,
)
from segue.router.limits import Limits, check_timeout_s
from segue.router.public_grpc.session_outbox import SessionOutbox
from segue.router.service import Generation, GenerationService, Handle

log = get_logger("grpc")

MAX_REQUESTS = 4096  # Of one session at a time.
# What one of them may have waiting whatever the limit is: room for its end, as all of them may end in one moment.
_END_BYTES = 1024

SessionContext = grpc.aio.ServicerContext[SessionRequest, SessionResponse]
Release = Callable[[], None]
# A request as a generation; the second argument says how many seconds it has left.
Translate = Callable[[GenerateRequest, Callable[[], float]], Awaitable[Generation]]


def call_trace_parent(context: grpc.aio.ServicerContext[Any, Any]) -> TraceParent | None:
    """W3C trace context from a call's metadata."""
    metadata = context.invocation_metadata() or ()
    return parse_trace_parent(next((str(value) for name, value in metadata if name == HEADER), None))


@dataclass(frozen=True, slots=True)
class SessionCore:
    """What sessions share. ``enter`` counts one request of the caller against the key's limits and gives what ends
    that; it raises SegueError where the caller may not."""

    service: GenerationService
    translate: Translate
    limits: Limits
    enter: Callable[[SessionContext], Release]


@dataclass(slots=True)
class _Open:
    """One request; also its ResponseSink."""

    id: int
    session: Session
    release: Release
    task: asyncio.Task[None] | None = None
    handle: Handle | None = None

    def on_token(self, index: int, text: str, token_id: int) -> None:
        self.session.outbox.put_token(self.id, index, text, token_id)

    def on_delta(self, response: GenerateResponse) -> None:
        self.session.outbox.put_part(self.id, response)
        if response.HasField("usage"):
            self.session.close(self)

    def on_error(self, error: SegueError) -> None:
        self.session.outbox.put_error(self.id, error)
        self.session.close(self)


@dataclass(slots=True)
class Session:
    """One call, until the client has closed its side and its requests are over, or either end gives up."""

    core: SessionCore
    context: SessionContext
    outbox: SessionOutbox = field(init=False)
    _trace: TraceParent | None = field(init=False)  # The call's own, for requests that bring none.
    _open: dict[int, _Open] = field(default_factory=dict)
    _client_done: bool = False

    def __post_init__(self) -> None:
        self.outbox = SessionOutbox(self.core.limits.max_write_buffer_bytes)
        self._trace = call_trace_parent(self.context)

    async def run(self) -> None:
        """Raises the SegueError that ends the whole session."""
        reading = asyncio.create_task(self._read(), name="session requests")
        writing = asyncio.create_task(self._write(), name="session tokens")
        overrun = self.outbox.overrun
        try:
            while not (writing.done() or overrun.done()):
                running = [one for one in (reading, writing, overrun) if not one.done()]
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                if reading.done() and not self._client_done:
                    reading.result()  # Raises what it ended with.
                    self._client_done = True
                    self.outbox.wake()
            (overrun if overrun.done() else writing).result()
        finally:
            for one in (reading, writing, overrun):
                one.cancel()
            await asyncio.gather(reading, writing, return_exceptions=True)
            for request in list(self._open.values()):
                self._cancel(request)

    def close(self, request: _Open) -> None:
        """A request is over."""
        if self._open.get(request.id) is request:
            del self._open[request.id]
            request.release()
            self.outbox.wake()

    async def _read(self) -> None:
        while True:
            try:
                message = await self.context.read()
            except DecodeError as error:
                raise InvalidRequest(f"what came is no SessionRequest: {error}", code="undecodable_request") from error
            if not isinstance(message, SessionRequest):
                return  # The client has closed its side.
            for start in message.start:
                self._begin(start)
            for id_ in message.cancel:
                self._cancelled(id_)

    async def _write(self) -> None:
        while True:
            message = await self.outbox.take()
            if message is not None:
                await self.context.write(message)
                if self._client_done and not self._open:
                    self.outbox.wake()  # It may have been the last one, and nobody else would say so.
            elif self._client_done and not self._open:
                return

    def _begin(self, start: SessionStart) -> None:
        try:
            if start.id in self._open:
                raise InvalidRequest(f"id {start.id} is in use by another request of this session", param="id")
            if len(self._open) >= MAX_REQUESTS:
                raise Overloaded(f"{MAX_REQUESTS} requests of this session are under way, which is the limit for one")
            release = self.core.enter(self.context)
        except SegueError as error:
            self.outbox.put_error(start.id, error)
            return
        request = _Open(start.id, self, release)
        self._open[start.id] = request
        self.outbox.limit_bytes = max(self.outbox.limit_bytes, _END_BYTES * len(self._open))
        request.task = asyncio.create_task(self._start(request, start), name=f"session request {start.id}")

    async def _start(self, request: _Open, start: SessionStart) -> None:
        try:
            left_s = self._deadline(start.timeout_s)
            generation = await self.core.translate(start.request, left_s)
            trace = parse_trace_parent(start.trace_parent) or self._trace
            request.handle = self.core.service.start(replace(generation, trace=trace), request)
        except SegueError as error:
            request.on_error(error)
        except Exception as error:  # A fault of ours in one request must not end the session of all the others.
            log.error("request_failed", error=repr(error), exc_info=error)
            request.on_error(InternalError("internal error; the router's log has it"))

    def _deadline(self, timeout_s: float) -> Callable[[], float]:
        limits = self.core.limits
        left_s = self.context.time_remaining()
        if timeout_s:
            timeout_s = check_timeout_s(timeout_s, limits, "timeout_s")
        else:
            timeout_s = limits.default_timeout_s if left_s is None else min(left_s, limits.max_timeout_s)
        until_s = time.monotonic() + (timeout_s if left_s is None else min(timeout_s, left_s))
        return lambda: check_timeout_s(until_s - time.monotonic(), limits, "deadline")

    def _cancelled(self, id_: int) -> None:
        if (request := self._open.get(id_)) is not None:
            self._cancel(request)
        else:
            self.outbox.drop(id_)  # Over already; its end may wait.

    def _cancel(self, request: _Open) -> None:
        if request.task is not None:
            request.task.cancel()
        if request.handle is not None:
            request.handle.cancel()
        self.outbox.drop(request.id)
        self.close(request)
