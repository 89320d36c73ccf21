"""The producer's end of the hand-offs of one engine: what ``segue.v1.KvTransfer`` answers, without gRPC or a clock.

Blocks are read from a :class:`BlockSource`; what is read from blocks that were taken back meanwhile never leaves.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from segue.kv_transfer.chunks import plan_chunks
from segue.kv_transfer.digest import digest_of, digest_of_digests
from segue.kv_transfer.handoff import Event
from segue.kv_transfer.layout import layout_differences
from segue.kv_transfer.offers import Offer, OfferBook, Refusal, TicketRefused
from segue.proto.kv_transfer_pb2 import BlockLayout, DigestRequest, KvChunk, PullRequest, ReleaseRequest, RenewRequest


class BlockSource(Protocol):
    """What is needed of a paged cache to give its blocks away. ``block_ids`` are the engine's."""

    @property
    def layout(self) -> BlockLayout: ...

    @property
    def layers(self) -> int: ...

    @property
    def layer_block_bytes(self) -> int: ...

    def read(self, layer: int, block_ids: Sequence[int]) -> bytes:
        """The blocks' bytes in one layer, one after the other."""

    def digests(self, block_ids: Sequence[int]) -> list[int]:
        """For each block one digest over all its layers in order."""


class NoBlocks:
    """Stands in for a cache whose layout we can't read: tickets are claimed and released, no bytes are given."""

    layout = BlockLayout()
    layers = 0
    layer_block_bytes = 0

    def read(self, layer: int, block_ids: Sequence[int]) -> bytes:
        raise NotImplementedError

    def digests(self, block_ids: Sequence[int]) -> list[int]:
        return []


class BadPosition(Exception):
    """Digests were asked for of blocks that the offer doesn't have."""


class ProducerEnd:
    """Answers claims out of ``blocks``. Methods may be called from any thread.

    ``wait_s`` is how long a claim waits for an offer that the engine has yet to record.
    """

    def __init__(self, book: OfferBook, blocks: BlockSource, wait_s: float = 0.0) -> None:
        self.book = book
        self._blocks = blocks
        self._wait_s = wait_s

    def pull(self, request: PullRequest) -> Iterator[KvChunk]:
        """Claim a ticket; its chunks, in order. Closing the iterator before its end breaks the hand-off.

        Raises:
            TicketRefused: at once, or between chunks when the blocks have been taken back meanwhile.
        """
        offer = self.begin(request)
        finished = False
        try:
            yield from self.send(offer, request.first_block)
            finished = True
        finally:
            if not finished:
                self.broke(offer)

    def begin(self, request: PullRequest) -> Offer:
        """Claim a ticket to :meth:`send` what it is for. Raises TicketRefused."""
        offer = self._claim(request)
        self.book.record(offer.ticket_id, Event.SEND)
        return offer

    def send(self, offer: Offer, first_block: int) -> Iterator[KvChunk]:
        """The chunks, in order. Raises TicketRefused when the blocks have been taken back meanwhile."""
        for chunk in self._chunks(offer, first_block):
            _still_held(offer)  # See handoff.TABLE: what was read may be another request's by now.
            yield chunk

    def broke(self, offer: Offer) -> bool:
        """The consumer has left before the end; whether that frees the blocks."""
        return self.book.record(offer.ticket_id, Event.FAIL)

    def digest(self, request: DigestRequest) -> list[int]:
        """Claim a ticket if that is asked for; digests of the blocks asked for.

        Raises:
            TicketRefused: or the blocks have been taken back since the ticket was claimed.
            BadPosition: the offer has fewer blocks.
        """
        if request.claim:
            offer = self._claim(request)
            # The consumer reads for itself from here on.
            self.book.record(offer.ticket_id, Event.SEND)
        else:
            offer = self.book.claimed(request.ticket_id, request.producer_epoch, request.request_id)
        if request.blocks and max(request.blocks) >= len(offer.block_ids):
            raise BadPosition(
                f"digest of block {max(request.blocks)} was asked for, ticket {offer.ticket_id} has "
                f"{len(offer.block_ids)} blocks"
            )
        digests = self._blocks.digests([offer.block_ids[position] for position in request.blocks])
        _still_held(offer)
        return digests

    def release(self, request: ReleaseRequest) -> bool:
        """Whether anything was held under the ticket."""
        if request.producer_epoch != self.book.epoch:
            return False  # The producer that held it is gone, and its blocks with it.
        event = Event.ACKNOWLEDGE if request.reason == "acknowledged" else Event.REVOKE
        return self.book.record(request.ticket_id, event)

    def renew(self, request: RenewRequest, now_s: float) -> list[str]:
        """Renew what is still held; the ids of tickets that aren't."""
        if request.producer_epoch != self.book.epoch:
            return list(request.ticket_ids)
        return [name for name in request.ticket_ids if not self.book.renew(name, now_s, request.lease_s)]

    def _claim(self, request: PullRequest | DigestRequest) -> Offer:
        if differences := layout_differences(self._blocks.layout, request.layout):
            raise TicketRefused(Refusal.OTHER_LAYOUT, "block layouts differ: " + "; ".join(differences))
        return self.book.claim(request.ticket_id, request.producer_epoch, request.request_id, wait_s=self._wait_s)

    def _chunks(self, offer: Offer, first_block: int) -> Iterator[KvChunk]:
        blocks = self._blocks
        plan = list(plan_chunks(blocks.layers, first_block, len(offer.block_ids), blocks.layer_block_bytes))
        digests: list[int] = []
        for number, chunk in enumerate(plan, start=1):
            payload = blocks.read(chunk.layer, offer.block_ids[chunk.first_block : chunk.first_block + chunk.blocks])
            digests.append(digest_of(payload))
            last = number == len(plan)
            yield KvChunk(
                layer=chunk.layer,
                first_block=chunk.first_block,
                blocks=chunk.blocks,
                payload=payload,
                digest=digests[-1],
                last=last,
                digest_of_all=digest_of_digests(digests) if last else 0,
            )


def _still_held(offer: Offer) -> None:
    if offer.handoff.over:
        raise TicketRefused(Refusal.REVOKED, f"ticket {offer.ticket_id} was taken back meanwhile")
