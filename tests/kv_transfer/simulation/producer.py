"""A prefill worker: the real book and producer's end around a simulated engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from segue.kv_transfer.offers import Offer, OfferBook, TicketRefused
from segue.kv_transfer.producer_end import ProducerEnd
from segue.proto.kv_transfer_pb2 import (
    DigestRequest,
    KvChunk,
    PullRequest,
    ReleaseRequest,
    RenewRequest,
    Ticket,
)
from tests.kv_transfer.simulation.memory import LAYOUT, Memory
from tests.kv_transfer.simulation.world import Violation, World

LEASE_S = 4.0
_BLOCKS = 6

Reply = Callable[..., None]


class Producer:
    """One process. ``epoch`` is its; tickets are numbered from 0, so that two epochs give the same ids (the real ones
    are random, and the check of the epoch must not lean on that)."""

    def __init__(self, world: World, name: str, epoch: str) -> None:
        self.name, self.epoch, self.alive = name, epoch, True
        self.memory = Memory(_BLOCKS)
        self.book = OfferBook(epoch)
        self._world = world
        self._end = ProducerEnd(self.book, self.memory)
        self._owned: dict[str, tuple[int, ...]] = {}
        self._computing: set[str] = set()
        self._tickets = 0

    def submit(self, request_id: str, blocks: int, reply: Reply) -> None:
        if not self.alive or request_id in self._owned:
            return
        block_ids = self.memory.allocate(request_id, blocks)
        if block_ids is None:
            return
        self._owned[request_id] = block_ids
        self._computing.add(request_id)
        self._world.soon(self._prefilled, request_id, reply)

    def abort(self, request_id: str) -> None:
        if self.alive and request_id in self._computing:
            self._computing.discard(request_id)
            self.memory.free(request_id, self._owned.pop(request_id))

    def _prefilled(self, request_id: str, reply: Reply) -> None:
        if not self.alive or request_id not in self._computing:
            return
        self._computing.discard(request_id)
        block_ids = self._owned[request_id]
        self.memory.compute(request_id, block_ids, request_id, self.epoch)
        ticket = Ticket(
            ticket_id=f"kv-{self._tickets}",
            producer_id=self.name,
            producer_epoch=self.epoch,
            request_id=request_id,
            layout=LAYOUT,
            tokens=len(block_ids),
            blocks=len(block_ids),
            lease_s=LEASE_S,
            nixl=bytes(block_ids),  # Stands for NIXL's descriptor, which says where to read.
        )
        self._tickets += 1
        self._world.send(reply, ticket)
        self._world.soon(self._record, ticket, block_ids)  # The engine's next step, as with the real connectors.

    def _record(self, ticket: Ticket, block_ids: tuple[int, ...]) -> None:
        if self.alive:
            name, expires_at_s = ticket.request_id, self._world.now_s + LEASE_S
            self.book.add(Offer(ticket.ticket_id, name, name, block_ids, ticket.tokens, expires_at_s, LEASE_S))
            self._world.soon(self._step)
            self._world.after(LEASE_S + 0.01, self._step)

    def _step(self) -> None:
        """The engine's: frees what is over."""
        if self.alive:
            self.book.expire(self._world.now_s)
            for name in self.book.take_over():
                if name not in self._owned:
                    raise Violation(f"blocks of {name} were freed twice")
                self.memory.free(name, self._owned.pop(name))

    def pull(self, request: PullRequest, on_chunk: Reply, on_end: Reply, tries: int = 0) -> None:
        if self.alive and not (self._early(request, tries, self.pull, request, on_chunk, on_end)):
            self._send_next(self._end.pull(request), on_chunk, on_end)

    def _send_next(self, chunks: Iterator[KvChunk], on_chunk: Reply, on_end: Reply) -> None:
        if not self.alive:
            return
        world = self._world
        try:
            chunk = next(chunks)
        except StopIteration:
            world.send(on_end, "")
            return
        except TicketRefused as refused:
            world.send(on_end, str(refused))
            return
        if world.faults.corrupt and world.rng.random() < world.faults.corrupt:
            chunk.payload = flipped(chunk.payload)
        world.send(on_chunk, chunk)
        world.after(world.rng.random() * 0.4, self._send_next, chunks, on_chunk, on_end)

    def digest(self, request: DigestRequest, reply: Reply, tries: int = 0) -> None:
        if not self.alive or (request.claim and self._early(request, tries, self.digest, request, reply)):
            return
        try:
            self._world.send(reply, self._end.digest(request), "")
        except TicketRefused as refused:
            self._world.send(reply, [], str(refused))

    def _early(
        self, request: PullRequest | DigestRequest, tries: int, call: Callable[..., None], *arguments: Any
    ) -> bool:
        """A claim waits for an offer that the engine has yet to record, and threads don't wait here."""
        if tries == 3 or self.book.state_of(request.ticket_id) is not None:
            return False
        self._world.after(0.1, call, *arguments, tries + 1)
        return True

    def release(self, request: ReleaseRequest) -> None:
        if self.alive and self._end.release(request):
            self._world.soon(self._step)

    def renew(self, request: RenewRequest) -> None:
        if self.alive:
            self._end.renew(request, self._world.now_s)
            self._world.after(LEASE_S + 0.01, self._step)


def flipped(payload: bytes) -> bytes:
    return payload[:-1] + bytes([payload[-1] ^ 1])
