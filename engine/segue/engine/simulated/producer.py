"""The producer's end of one simulated engine: real tickets, leases and claims; the bytes are names of blocks.

What travels for a block is the 64 bits that stand for its content, so both ends check digests as ever, and the consumer
can tell whether it was given the KV of its own prompt. The time is that of the real bytes over the link.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from segue.base.ids import new_ticket_id
from segue.base.logging import get_logger
from segue.engine.simulated.cache import BlockCache
from segue.engine.simulated.link import Link
from segue.engine.simulated.request import SimRequest
from segue.kv_transfer.offers import Offer, OfferBook
from segue.kv_transfer.producer_end import ProducerEnd
from segue.proto.kv_transfer_pb2 import BlockLayout, KvChunk, PullRequest, ReleaseRequest, RenewRequest, Ticket

log = get_logger("engine")

# Of the stand-in for a block.
CONTENT_BYTES = 8


class CacheContent:
    """The cache as :class:`~segue.kv_transfer.producer_end.ProducerEnd` reads it: one layer of 8 bytes a block."""

    layers = 1
    layer_block_bytes = CONTENT_BYTES

    def __init__(self, cache: BlockCache, layout: BlockLayout) -> None:
        self._cache = cache
        self.layout = layout

    def read(self, layer: int, block_ids: Sequence[int]) -> bytes:
        return struct.pack(f"<{len(block_ids)}Q", *map(self._cache.content, block_ids))

    def digests(self, block_ids: Sequence[int]) -> list[int]:
        return [self._cache.content(block_id) for block_id in block_ids]


@dataclass(frozen=True, slots=True)
class ProducerIdentity:
    """What tickets say of their producer."""

    worker_id: str
    epoch: str
    address: str
    lease_s: float


class Producer:
    """One engine's offers. ``free`` is told when the blocks of an offer are nobody's any more."""

    def __init__(
        self,
        identity: ProducerIdentity,
        cache: BlockCache,
        layout: BlockLayout,
        link: Link,
        free: Callable[[Sequence[int]], None],
    ) -> None:
        self._identity = identity
        self._cache = cache
        self._layout = layout
        self._link = link
        self._free = free
        self._book = OfferBook(identity.epoch)
        self._end = ProducerEnd(self._book, CacheContent(cache, layout))
        self._held: dict[str, list[int]] = {}
        self._loop = asyncio.get_running_loop()
        self._expiry: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """Offers whose blocks are held."""
        return len(self._book)

    def offer(self, request: SimRequest) -> Ticket:
        """Hold the request's blocks, all of them computed as far as the request is, and offer them."""
        identity, block_tokens = self._identity, self._layout.block_tokens
        tokens = request.computed
        block_ids = request.blocks[: -(-tokens // block_tokens)]
        contents = request.contents(tokens, block_tokens)
        if tokens % block_tokens:
            self._cache.fill(block_ids[-1], contents[-1])
        self._free(request.blocks[len(block_ids) :])
        ticket = Ticket(
            ticket_id=new_ticket_id(),
            producer_id=identity.worker_id,
            producer_epoch=identity.epoch,
            request_id=request.request_id,
            layout=self._layout,
            tokens=tokens,
            blocks=len(block_ids),
            lease_s=identity.lease_s,
            expires_unix_s=time.time() + identity.lease_s,
            transport="simulated",
            address=identity.address,
        )
        until_s = self._loop.time() + identity.lease_s
        self._held[ticket.ticket_id] = block_ids
        # The book's word for what may be freed is the engine's id of the request; ours is the ticket's.
        self._book.add(
            Offer(
                ticket.ticket_id,
                request.request_id,
                ticket.ticket_id,
                tuple(block_ids),
                tokens,
                until_s,
                identity.lease_s,
            )
        )
        if self._expiry is None:
            self._watch_leases()
        return ticket

    async def pull(self, request: PullRequest) -> list[KvChunk]:
        """Answer a claim, in the time that the bytes take.

        Raises:
            TicketRefused: at once, or when the blocks have been taken back meanwhile.
        """
        offer = self._end.begin(request)
        sent = False
        try:
            await self._link.move((len(offer.block_ids) - request.first_block) * self._layout.block_bytes)
            chunks = list(self._end.send(offer, request.first_block))
            sent = True
        finally:
            if not sent:  # The consumer has left, or the lease ran out.
                self._end.broke(offer)
                self._free_over()
        return chunks

    def release(self, request: ReleaseRequest) -> bool:
        freed = self._end.release(request)
        self._free_over()
        return freed

    def renew(self, request: RenewRequest) -> list[str]:
        return self._end.renew(request, self._loop.time())

    def close(self) -> None:
        if self._expiry is not None:
            self._expiry.cancel()

    def _free_over(self) -> None:
        for ticket_id in self._book.take_over():
            self._free(self._held.pop(ticket_id))

    def _watch_leases(self) -> None:
        for offer in self._book.expire(self._loop.time()):
            log.warning("offer_expired", ticket_id=offer.ticket_id, request_id=offer.request_id)
        self._free_over()
        next_s = self._book.next_expiry_s()
        self._expiry = None if next_s is None else self._loop.call_at(next_s, self._watch_leases)
