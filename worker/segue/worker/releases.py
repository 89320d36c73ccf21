"""Giving tickets back to the engines that hold their blocks, and renewing the leases of those still wanted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from segue.base.logging import get_logger
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

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self._tasks = tasks
        self._sending: set[asyncio.Task[None]] = set()
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Releases:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sending:
            await asyncio.wait(self._sending)
        for channel in self._channels.values():
            await channel.close(grace=None)
        self._channels.clear()  # What comes after all dials anew.

    def give_back(self, release: ReleaseRequest, address: str) -> None:
        """Release a ticket at the ``KvTransfer`` service at ``address``."""
        self._start(self._release(release, address), f"release {release.ticket_id}")

    def give_back_ticket(self, ticket: Ticket, reason: str) -> None:
        release = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason=reason)
        self.give_back(release, ticket.address)

    def renew(self, renew: RenewRequest, address: str, on_gone: Callable[[Iterable[str]], None]) -> None:
        """Extend leases at the ``KvTransfer`` service at ``address``; ``on_gone`` gets the tickets that are over."""
        self._start(self._renew(renew, address, on_gone), "renew")

    def _start(self, call: Coroutine[Any, Any, None], name: str) -> None:
        task = self._tasks.create_task(call, name=name)
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _release(self, release: ReleaseRequest, address: str) -> None:
        try:
            await self._stub(address).Release(release, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as broken:
            log.warning("release_failed", ticket_id=release.ticket_id, error=broken.code().name)

    async def _renew(self, renew: RenewRequest, address: str, on_gone: Callable[[Iterable[str]], None]) -> None:
        try:
            answer = await self._stub(address).Renew(renew, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as broken:
            log.warning("renew_failed", tickets=len(renew.ticket_ids), error=broken.code().name)
        else:
            on_gone(answer.gone_ticket_ids)

    def _stub(self, address: str) -> KvTransferAsyncStub:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.aio.insecure_channel(address)
        return KvTransferStub(channel)
