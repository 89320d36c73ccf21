"""How simulated engines reach each other: in one process directly, between processes by ``segue.v1.KvTransfer``.

The engines of a process share one listener; a call's producer epoch says which engine it is for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, NoReturn

import grpc
import grpc.aio

from segue.base.errors import SettingsError
from segue.base.grpc_guard import AsyncGuard, only_kinds
from segue.base.identity import worker_dns
from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.base.tls_grpc import Channels, add_port, open_aio_channel
from segue.engine.simulated.producer import Producer
from segue.kv_transfer.offers import Refusal, TicketRefused
from segue.proto.kv_transfer_pb2 import (
    DigestRequest,
    DigestResponse,
    KvChunk,
    PullRequest,
    ReleaseRequest,
    ReleaseResponse,
    RenewRequest,
    RenewResponse,
    Ticket,
)
from segue.proto.kv_transfer_pb2_grpc import KvTransferServicer, KvTransferStub, add_KvTransferServicer_to_server

if TYPE_CHECKING:  # The stub that grpc.aio channels give exists in the type stubs only.
    from segue.proto.kv_transfer_pb2_grpc import KvTransferAsyncStub

log = get_logger("kv_transfer")

_RELEASE_TIMEOUT_S = 5.0
_NOT_HELD = {Refusal.UNKNOWN, Refusal.USED, Refusal.EXPIRED, Refusal.REVOKED}
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 2000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
]


class PullFailed(Exception):
    """The ticket was refused, or the producer can't be reached; the message has the gRPC status first."""


class KvPeers:
    """The producers of this process, and the way to all others. One for each event loop."""

    def __init__(self, host: str, port: int = 0, tls: TlsSource | None = None) -> None:
        self._host, self._port, self._tls = host, port, tls
        self._producers: dict[str, Producer] = {}
        self._channels = Channels(open_aio_channel, tls)
        self._server: grpc.aio.Server | None = None
        self._releasing: set[asyncio.Task[None]] = set()
        self.address = ""

    async def start(self) -> None:
        """Listen; once is enough for all engines.

        Raises:
            SettingsError: the port is taken.
        """
        if self._server is not None:
            return
        guards = [] if self._tls is None else [AsyncGuard(only_kinds("prefill", "decode"))]
        # As the vLLM connector's listener: nobody shares the port, and consumers' pings are no attack.
        options = [("grpc.so_reuseport", 0), ("grpc.http2.min_ping_interval_without_data_ms", 1000)]
        self._server = grpc.aio.server(options=options, interceptors=guards)
        add_KvTransferServicer_to_server(_KvTransferService(self._producers), self._server)
        try:
            port = add_port(self._server, f"{self._host}:{self._port}", self._tls)
        except RuntimeError as error:
            raise SettingsError(
                f"can't listen on {self._host}:{self._port}: {error}; choose another --kv-port"
            ) from error
        self.address = f"{self._host}:{port}"
        await self._server.start()

    async def close(self) -> None:
        if self._releasing:
            await asyncio.wait(self._releasing)
        for channel in self._channels.take_all():
            await channel.close(grace=None)
        if self._server is not None:
            await self._server.stop(grace=0.2)

    def add(self, epoch: str, producer: Producer) -> None:
        self._producers[epoch] = producer

    def remove(self, epoch: str) -> None:
        """Its tickets are refused from now on, as those of a producer that has restarted."""
        self._producers.pop(epoch, None)

    async def pull(self, ticket: Ticket, request: PullRequest, timeout_s: float) -> list[KvChunk]:
        """Claim a ticket; its chunks.

        Raises:
            PullFailed: it was refused, or nothing came within the time.
        """
        producer = self._producers.get(ticket.producer_epoch)
        if producer is not None:
            try:
                return await asyncio.wait_for(producer.pull(request), timeout_s)
            except TicketRefused as refused:
                raise PullFailed(f"{_status(refused).name}: {refused}") from refused
            except TimeoutError:
                raise PullFailed(f"DEADLINE_EXCEEDED: nothing came within {timeout_s:g} s") from None
        try:
            return [chunk async for chunk in self._stub(ticket).Pull(request, timeout=timeout_s)]
        except grpc.aio.AioRpcError as broken:
            raise PullFailed(f"{broken.code().name}: {broken.details()}") from broken

    def release(self, ticket: Ticket, reason: str) -> None:
        """Tell the producer that the blocks are not needed any more; failures are left to the lease."""
        request = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason=reason)
        producer = self._producers.get(ticket.producer_epoch)
        if producer is not None:
            producer.release(request)
            return
        task = asyncio.ensure_future(self._release(ticket, request))
        self._releasing.add(task)
        task.add_done_callback(self._releasing.discard)

    async def _release(self, ticket: Ticket, request: ReleaseRequest) -> None:
        try:
            await self._stub(ticket).Release(request, timeout=_RELEASE_TIMEOUT_S)
        except grpc.aio.AioRpcError as broken:
            log.warning("release_failed", ticket_id=ticket.ticket_id, error=broken.code().name)

    def _stub(self, ticket: Ticket) -> KvTransferAsyncStub:
        return KvTransferStub(self._channels.get(ticket.address, worker_dns(ticket.producer_id), _OPTIONS))


class _KvTransferService(KvTransferServicer):
    """Hands each call to the engine it is for."""

    def __init__(self, producers: dict[str, Producer]) -> None:
        self._producers = producers

    async def Pull(
        self, request: PullRequest, context: grpc.aio.ServicerContext[PullRequest, KvChunk]
    ) -> AsyncIterator[KvChunk]:
        producer = self._producers.get(request.producer_epoch)
        try:
            if producer is None:
                raise _unknown_epoch(request.ticket_id, request.producer_epoch)
            chunks = await producer.pull(request)
        except TicketRefused as refused:
            await _refuse(context, refused)
        for chunk in chunks:
            yield chunk

    async def Digest(
        self, request: DigestRequest, context: grpc.aio.ServicerContext[DigestRequest, DigestResponse]
    ) -> DigestResponse:
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "simulated engines pull; nobody reads their blocks directly")
        raise AssertionError  # abort has raised.

    async def Release(
        self, request: ReleaseRequest, context: grpc.aio.ServicerContext[ReleaseRequest, ReleaseResponse]
    ) -> ReleaseResponse:
        producer = self._producers.get(request.producer_epoch)
        return ReleaseResponse(freed=producer is not None and producer.release(request))

    async def Renew(
        self, request: RenewRequest, context: grpc.aio.ServicerContext[RenewRequest, RenewResponse]
    ) -> RenewResponse:
        producer = self._producers.get(request.producer_epoch)
        if producer is None:
            return RenewResponse(gone_ticket_ids=request.ticket_ids)
        return RenewResponse(gone_ticket_ids=producer.renew(request), held_offers=len(producer))


def _unknown_epoch(ticket_id: str, epoch: str) -> TicketRefused:
    return TicketRefused(
        Refusal.OTHER_EPOCH,
        f"ticket {ticket_id} is of producer epoch {epoch}, which no engine here has: it has restarted and its KV cache "
        "is gone; compute the prompt again",
    )


def _status(refused: TicketRefused) -> grpc.StatusCode:
    return grpc.StatusCode.NOT_FOUND if refused.refusal in _NOT_HELD else grpc.StatusCode.FAILED_PRECONDITION


async def _refuse(context: grpc.aio.ServicerContext[PullRequest, KvChunk], refused: TicketRefused) -> NoReturn:
    log.warning("claim_refused", why=refused.refusal.value, detail=str(refused))
    await context.abort(_status(refused), str(refused))
    raise AssertionError  # abort has raised.
