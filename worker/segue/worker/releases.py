"""Giving tickets back to the engines that hold their blocks."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from segue.base.logging import get_logger
from segue.proto.kv_transfer_pb2 import ReleaseRequest, Ticket
from segue.proto.kv_transfer_pb2_grpc import KvTransferStub

log = get_logger("worker")

_TIMEOUT_S = 5.0


class Releases:
    """Sends releases in the background, inside ``tasks``. One that fails is left to the lease.

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
        task = self._tasks.create_task(self._send(release, address), name=f"release {release.ticket_id}")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    def give_back_ticket(self, ticket: Ticket, reason: str) -> None:
        release = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason=reason)
        self.give_back(release, ticket.address)

    async def _send(self, release: ReleaseRequest, address: str) -> None:
        channel = self._channels.get(address)
        if channel is None:
            channel = self._channels[address] = grpc.aio.insecure_channel(address)
        try:
            await KvTransferStub(channel).Release(release, timeout=_TIMEOUT_S)
        except grpc.aio.AioRpcError as broken:
            log.warning("release_failed", ticket_id=release.ticket_id, error=broken.code().name)
