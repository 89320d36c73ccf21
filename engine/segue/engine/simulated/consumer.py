"""The consumer's end of one simulated engine: claims tickets, and checks that what comes is its own prompt's KV."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from segue.base.logging import get_logger
from segue.engine.simulated.kv_peers import KvPeers, PullFailed
from segue.engine.simulated.link import Link
from segue.engine.simulated.producer import CONTENT_BYTES
from segue.engine.simulated.request import SimRequest
from segue.kv_transfer.consumer_claim import ConsumerClaim
from segue.kv_transfer.receiving import Corrupt, Receiver
from segue.proto.kv_transfer_pb2 import BlockLayout, PullRequest, Ticket
from segue.proto.worker_pb2 import Transfer

log = get_logger("engine")


@dataclass(slots=True)
class _Claim:
    """One claim under way. ``first_block``: those before it are in this engine's own prefix cache."""

    request: SimRequest
    ticket: Ticket
    first_block: int
    started_s: float
    state: ConsumerClaim = field(default_factory=ConsumerClaim)
    size_bytes: int = 0


class Consumer:
    """One engine's claims, each a task. ``arrived`` is told of each one that has ended, unless it was cancelled: the
    request, how it went, and whether its KV cache may be read."""

    def __init__(
        self, peers: KvPeers, layout: BlockLayout, link: Link, arrived: Callable[[SimRequest, Transfer, bool], None]
    ) -> None:
        self._peers = peers
        self._layout = layout
        self._link = link
        self._arrived = arrived
        self._claims: dict[str, tuple[_Claim, asyncio.Task[None]]] = {}

    def claim(self, request: SimRequest) -> None:
        """Fetch the KV cache that the request's ticket is for, behind the blocks that it has."""
        assert request.ticket is not None
        claim = _Claim(request, request.ticket, request.named, asyncio.get_running_loop().time())
        task = asyncio.ensure_future(self._run(claim))
        self._claims[request.request_id] = claim, task
        task.add_done_callback(partial(self._ended, claim))

    def cancel(self, request: SimRequest) -> None:
        """The request is over: nothing is read of what still comes."""
        if request.request_id in self._claims:
            claim, task = self._claims[request.request_id]
            claim.state.cancel()
            task.cancel()

    def release(self, ticket: Ticket, reason: str) -> None:
        self._peers.release(ticket, reason)

    async def close(self) -> None:
        tasks = [task for _, task in self._claims.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, claim: _Claim) -> None:
        try:
            if claim.state.begin():
                await self._fetch(claim)
                claim.state.verify()
        except PullFailed as failed:
            claim.state.fail(str(failed))
        except Corrupt as corrupt:
            claim.state.fail(str(corrupt), corrupt=True)

    def _ended(self, claim: _Claim, task: asyncio.Task[None]) -> None:
        """Also of a task that was cancelled before it began: the producer must be told in any case."""
        state, request = claim.state, claim.request
        self._claims.pop(request.request_id, None)
        if not task.cancelled() and (fault := task.exception()) is not None:
            log.error("kv_pull_fault", request_id=request.request_id, error=repr(fault))
            state.fail(f"INTERNAL: {fault!r}")
        loaded = state.may_read
        self._peers.release(claim.ticket, state.finish())
        if task.cancelled():
            return
        if state.error:
            log.warning("kv_pull_failed", request_id=request.request_id, error=state.error, corrupt=state.corrupt)
        transfer = Transfer(
            transport="simulated",
            bytes=claim.size_bytes if loaded else 0,
            seconds=asyncio.get_running_loop().time() - claim.started_s,
            error=state.error,
            corrupt=state.corrupt,
        )
        self._arrived(request, transfer, loaded)

    async def _fetch(self, claim: _Claim) -> None:
        """Receive and check.

        Raises:
            PullFailed: the ticket was refused, or the producer can't be reached.
            Corrupt: what came is not the KV of this prompt.
        """
        request, ticket, first_block = claim.request, claim.ticket, claim.first_block
        pull = PullRequest(
            ticket_id=ticket.ticket_id,
            producer_epoch=ticket.producer_epoch,
            request_id=ticket.request_id,
            layout=self._layout,
            first_block=first_block,
        )
        # After the lease the producer has its blocks back.
        timeout_s = min(request.timeout_s, ticket.lease_s) if request.timeout_s > 0 else ticket.lease_s
        claim.size_bytes = (ticket.blocks - first_block) * self._layout.block_bytes
        # Both ends' links carry it; it takes as long as on the one that is busier.
        ours = asyncio.ensure_future(self._link.move(claim.size_bytes))
        try:
            chunks = await self._peers.pull(ticket, pull, timeout_s)
            await ours
        finally:
            ours.cancel()
        claim.state.receive()
        receiver = Receiver(1, CONTENT_BYTES, first_block, ticket.blocks)
        for chunk in chunks:
            receiver.accept(chunk)
        receiver.finish()
        came = [number for chunk in chunks for (number,) in struct.iter_unpack("<Q", chunk.payload)]
        expected = request.contents(ticket.tokens, self._layout.block_tokens)[first_block:]
        for place, (seen, wanted) in enumerate(zip(came, expected, strict=True), start=first_block):
            if seen != wanted:
                raise Corrupt(f"block {place} came with the KV of {seen:016x}, this prompt's is {wanted:016x}")
