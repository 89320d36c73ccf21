"""Giving tickets back to the engines that hold their blocks, and renewing the leases of those still wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from segue.base.identity import worker_dns
from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.base.tls_grpc import Channels, open_aio_channel
from segue.proto.kv_transfer_pb2 import ReleaseRequest, RenewRequest, Ticket
from segue.proto.kv_transfer_pb2_grpc import KvTransferStub

if TYPE_CHECKING:  # The stub that grpc.aio channels give exists in the type stubs only.
    from segue.proto.kv_transfer_pb2_grpc import KvTransferAsyncStub

log = get_logger("worker")

_TIMEOUT_S = 5.0


class Releases:
    """Sends releases and renewals in the background, inside ``tasks``. One that fails is left to the lease.

    Leaving the block waits for those under way: nobody else knows of their tickets.
    """

    def __init__(self, tasks: asyncio.TaskGroup, own_id: str = "", tls: TlsSource | None = None) -> None:
        """``own_id`` is this worker's, which with TLS its own engine's certificate must name."""
        self._tasks = tasks
        self._own_id = own_id
        self._sending: set[asyncio.Task[None]] = set()
        self._channels = Channels(open_aio_channel, tls)

    async def __aenter__(self) -> Releases:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sending:
            await asyncio.wait(self._sending)
        for channel in self._channels.take_all():  # What comes after all dials anew.
            await channel.close(grace=None)

    def give_back(self, release: ReleaseRequest, address: str, producer_id: str = "") -> None:
        """Release a ticket at the ``KvTransfer`` service at ``address``: of that producer, or of our own engine."""
        self._start(self._release(release, address, producer_id), f"release {release.ticket_id}")

    def give_back_ticket(self, ticket: Ticket, reason: str) -> None:
        release = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason=reason)
        self.give_back(release, ticket.address, ticket.producer_id)

    def renew(self, renew: RenewRequest, address: str, on_gone: Callable[[Iterable[str]], None]) -> None:
        """Extend leases at our own engine, at ``address``; ``on_gone`` gets the tickets that are over."""
        self._start(self._renew(renew, address, on_gone), "renew")

    def _start(self, call: Coroutine[Any, Any, None], name: str) -> None:
        task = self._tasks.create_task(call, name=name)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _release(self, release: ReleaseRequest, address: str, producer_id: str) -> None:
        try:
            await self._stub(address, producer_id).Release(release, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as broken:
            log.warning("release_failed", ticket_id=release.ticket_id, error=broken.code().name)

    async def _renew(self, renew: RenewRequest, address: str, on_gone: Callable[[Iterable[str]], None]) -> None:
        try:
            answer = await self._stub(address).Renew(renew, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as broken:
            log.warning("renew_failed", tickets=len(renew.ticket_ids), error=broken.code().name)
        else:
            on_gone(answer.gone_ticket_ids)

    def _stub(self, address: str, producer_id: str = "") -> KvTransferAsyncStub:
        return KvTransferStub(self._channels.get(address, worker_dns(producer_id or self._own_id)))
