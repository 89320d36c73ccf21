"""The stream to one router: dial, register, carry frames, dial again."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

import grpc
import grpc.aio

from segue.base.errors import SettingsError
from segue.base.identity import ROUTER_DNS
from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.base.tls_grpc import open_aio_channel
from segue.proto.worker_pb2 import Load, Register, RouterBacklog, RouterFrame, Status, WorkerFrame
from segue.proto.worker_pb2_grpc import WorkerHubStub
from segue.worker.outbox import Outbox

log = get_logger("worker")

_REDIAL_MIN_S = 0.1
_REDIAL_MAX_S = 0.5  # A router that comes back is to know its workers within 3 s.
# From dialling to the router's first frame. What a cut link swallows is given up and dialled anew, so that nothing
# depends on when TCP tries again.
_ANSWER_TIMEOUT_S = 3.0
_LOAD_INTERVAL_S = 1.0
_MAX_FRAME_BYTES = 64 << 20

CHANNEL_OPTIONS = [
    ("grpc.max_receive_message_length", _MAX_FRAME_BYTES),
    ("grpc.max_send_message_length", _MAX_FRAME_BYTES),
    # A router behind a link that is cut or stalled is silent without a sign of its end. It is given up after the 5 s
    # after which it gives up a worker that is silent: neither then holds for long what the other has let go. What
    # ends the stream is the ping's own timeout, a minute if it isn't set: with a peer whose TCP still answers, the
    # keepalive's alone does nothing (measured with gRPC 1.85: 5.0 s with, none in 14 s without).
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    # Each attempt has a channel of its own, and this long to connect (despite the name).
    ("grpc.min_reconnect_backoff_ms", int(_ANSWER_TIMEOUT_S * 1000)),
    ("grpc.use_local_subchannel_pool", 1),  # Else a new channel inherits the back-off of the one before it.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
]


# What no redialling changes.
_REFUSALS = {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT}


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """How a stream ended, and whether the router had accepted us on it."""

    code: grpc.StatusCode
    details: str
    accepted: bool


class AttachmentOwner(Protocol):
    """What an attachment asks of the worker."""

    @property
    def register(self) -> Register: ...

    @property
    def status(self) -> Status: ...

    def current_load(self) -> Load: ...

    def backlogs_beside(self, attachment: Attachment) -> list[RouterBacklog]: ...

    def on_frame(self, attachment: Attachment, frame: RouterFrame) -> None: ...

    def on_detached(self, attachment: Attachment) -> None: ...


class Attachment:
    """One router, for as long as it is listed. ``run`` ends by cancellation, or with the router's refusal."""

    def __init__(self, address: str, owner: AttachmentOwner, tls: TlsSource | None = None) -> None:
        self.address = address
        self.outbox = Outbox()
        self.ports: frozenset[int] = frozenset()  # Of the router's processes, as it said last.
        self.backlog: RouterBacklog | None = None  # The router's, as it said last on this stream.
        self._owner = owner
        self._tls = tls
        self._call: grpc.aio.StreamStreamCall[WorkerFrame, RouterFrame] | None = None
        self._leaving = False
        self._ended = asyncio.Event()

    async def leave(self) -> None:
        """Send what waits, say that nothing follows, and wait until the router has read it all and ends the stream.

        A stream that is cut instead takes along what the router has received and not yet read: last tokens.
        """
        self._leaving = True
        await self.outbox.flushed()
        if self._call is not None and not self._call.done():
            await self._call.done_writing()
            await self._ended.wait()

    async def run(self) -> None:
        """Stay attached, until told to leave.

        Raises:
            SettingsError: the router refuses this worker as it is.
        """
        redial_s = _REDIAL_MIN_S
        while True:
            self.outbox = Outbox()
            async with open_aio_channel(self.address, self._tls, ROUTER_DNS, CHANNEL_OPTIONS) as channel:
                try:
                    end = await self._attach(channel)
                finally:
                    self.backlog = None
                    self._owner.on_detached(self)
                    self._ended.set()
            if self._leaving:
                return
            if end.code in _REFUSALS:
                raise SettingsError(f"router {self.address} refuses this worker: {end.details}")
            log.info(
                "detached" if end.accepted else "router_unreachable",
                router=self.address,
                code=end.code.name,
                details=end.details,
            )
            if end.accepted:
                redial_s = _REDIAL_MIN_S
            await asyncio.sleep(redial_s)
            redial_s = min(2 * redial_s, _REDIAL_MAX_S)

    async def _attach(self, channel: grpc.aio.Channel) -> StreamEnd:
        """One stream, from registration to its end."""
        call = WorkerHubStub(channel).Attach()  # type: ignore[call-arg]  # Writing by hand needs no iterator.
        self._call = call
        self._ended.clear()
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT_S):
                await _write(call, WorkerFrame(register=self._owner.register, status=self._owner.status))
                first = await _read(call)
        except TimeoutError:
            call.cancel()
            silent = f"no answer within {_ANSWER_TIMEOUT_S:g} s"
            return StreamEnd(grpc.StatusCode.DEADLINE_EXCEEDED, silent, accepted=False)
        if first is None:
            return StreamEnd(await call.code(), await call.details() or "", accepted=False)
        self._take(first)
        self.ports = frozenset(first.registered.ports)
        log.info("attached", router=self.address, router_id=first.registered.router_id)
        async with asyncio.TaskGroup() as tasks:
            senders = (tasks.create_task(self._send(call)), tasks.create_task(self._keep_load_fresh()))
            while (frame := await _read(call)) is not None:
                self._take(frame)
            for sender in senders:
                sender.cancel()
        return StreamEnd(await call.code(), await call.details() or "", accepted=True)

    def _take(self, frame: RouterFrame) -> None:
        if frame.HasField("refused"):
            raise SettingsError(f"router {self.address} refuses this worker: {frame.refused.reason}")
        if frame.HasField("backlog"):
            self.backlog = frame.backlog
        self._owner.on_frame(self, frame)

    async def _send(self, call: grpc.aio.StreamStreamCall[WorkerFrame, RouterFrame]) -> None:
        while await _write(call, await self.outbox.take()):
            self.outbox.mark_sent()

    async def _keep_load_fresh(self) -> None:
        while True:
            self.outbox.put_load(self._owner.current_load())
            self.outbox.put_other_routers(self._owner.backlogs_beside(self))
            await asyncio.sleep(_LOAD_INTERVAL_S)


async def _write(call: grpc.aio.StreamStreamCall[WorkerFrame, RouterFrame], frame: WorkerFrame) -> bool:
    """Whether the stream took the frame; if not it is over, and reading tells why."""
    try:
        await call.write(frame)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
        return False
    return True


async def _read(call: grpc.aio.StreamStreamCall[WorkerFrame, RouterFrame]) -> RouterFrame | None:
    """The next frame; None once the stream is over, however it ended."""
    try:
        frame = await call.read()
    except grpc.aio.AioRpcError:
        return None
    return frame if isinstance(frame, RouterFrame) else None
