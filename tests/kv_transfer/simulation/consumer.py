"""A decode worker: the real machine, receiver and read check around a simulated engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from segue.kv_transfer.consumer_claim import ConsumerClaim
from segue.kv_transfer.read_check import DigestMode, ReadCheck
from segue.kv_transfer.receiving import Corrupt, Receiver
from segue.proto.kv_transfer_pb2 import KvChunk, PullRequest, ReleaseRequest, Ticket
from tests.kv_transfer.simulation.memory import LAYER_BLOCK_BYTES, LAYERS, LAYOUT, Memory
from tests.kv_transfer.simulation.producer import Producer, flipped
from tests.kv_transfer.simulation.world import World

PULL_TIMEOUT_S = 5.0
_BLOCKS = 6


@dataclass(slots=True)
class Leg:
    """One request at this worker. ``mode`` is None for a pull over gRPC, else NIXL's digest mode."""

    request_id: str
    ticket: Ticket
    mode: DigestMode | None
    told: Callable[[str], None]
    block_ids: tuple[int, ...] | None = None
    ended: bool = False
    settled: bool = False
    answered: bool = False
    reading: bool = False
    claim: ConsumerClaim = field(default_factory=ConsumerClaim)


class Consumer:
    """One process. ``producers`` is who answers at each address at the moment."""

    def __init__(self, world: World, producers: dict[str, Producer]) -> None:
        self.alive = True
        self.memory = Memory(_BLOCKS)
        self.loaded = self.recomputed = 0
        self._world = world
        self._producers = producers
        self._legs: dict[str, Leg] = {}

    def submit(self, leg: Leg, timeout_s: float) -> None:
        if self.alive and leg.request_id not in self._legs:
            self._legs[leg.request_id] = leg
            self._world.after(timeout_s, self.abort, leg.request_id)
            self._admit(leg)

    def abort(self, request_id: str) -> None:
        """The request has ended for whatever reason; its blocks are freed now, or when nothing writes any more."""
        leg = self._legs.get(request_id)
        if leg is None or leg.ended or not self.alive:
            return
        leg.ended = True
        if leg.block_ids is None:
            self._release(leg, "cancelled")
        elif leg.settled:
            self._free(leg)
        else:
            leg.claim.cancel()
            if not leg.reading:
                self._world.soon(self._settle, leg)

    def router_lost(self) -> None:
        """As a worker does when the stream over which requests came has broken."""
        for request_id in list(self._legs):
            self.abort(request_id)

    def _admit(self, leg: Leg) -> None:
        """Waits in the engine's queue until there are blocks."""
        if leg.ended or not self.alive:
            return
        leg.block_ids = self.memory.allocate(leg.request_id, leg.ticket.blocks)
        if leg.block_ids is None:
            self._world.after(0.5, self._admit, leg)
        elif leg.claim.begin():
            self._world.after(PULL_TIMEOUT_S, self._fail, leg, "DEADLINE_EXCEEDED")
            if leg.mode is None:
                self._pull(leg)
            else:
                self._read(leg, ReadCheck(leg.mode, leg.ticket, LAYOUT, 0))

    # Over gRPC: the producer sends.

    def _pull(self, leg: Leg) -> None:
        ticket = leg.ticket
        receiver = Receiver(LAYERS, LAYER_BLOCK_BYTES, 0, ticket.blocks)
        request = PullRequest(
            ticket_id=ticket.ticket_id,
            producer_epoch=ticket.producer_epoch,
            request_id=ticket.request_id,
            layout=LAYOUT,
        )

        def on_chunk(chunk: KvChunk) -> None:
            if leg.settled or not self.alive:
                return
            if not leg.claim.receive():
                self._settle(leg)
                return
            try:
                receiver.accept(chunk)
            except Corrupt as corrupt:
                self._fail(leg, str(corrupt), True)
                return
            assert leg.block_ids is not None
            for number in range(chunk.blocks):
                payload = chunk.payload[number * LAYER_BLOCK_BYTES : (number + 1) * LAYER_BLOCK_BYTES]
                block = leg.block_ids[chunk.first_block + number]
                self.memory.write(leg.request_id, chunk.layer, block, payload)

        def on_end(error: str) -> None:
            if leg.settled or not self.alive:
                return
            if error:
                self._fail(leg, error)
                return
            try:
                receiver.finish()
            except Corrupt as corrupt:
                self._fail(leg, str(corrupt), True)
                return
            leg.claim.verify()
            self._settle(leg)

        self._world.send(self._producers[ticket.producer_id].pull, request, on_chunk, on_end)

    # With NIXL: this end reads, one block at a time, out of whatever process is at the address.

    def _read(self, leg: Leg, check: ReadCheck) -> None:
        address, theirs = leg.ticket.producer_id, tuple(leg.ticket.nixl)

        def on_claimed(_: list[int], error: str) -> None:
            if leg.settled or not self.alive or leg.answered:  # A call has one answer; the link repeats it.
                return
            leg.answered = True
            if error:
                self._fail(leg, error)
            elif leg.claim.receive():
                leg.reading = True
                step(0)
            else:
                self._settle(leg)

        def step(position: int) -> None:
            """Nothing stops a read under way, not even its request's end."""
            if not self.alive:
                return
            world, source = self._world, self._producers[address]
            assert leg.block_ids is not None
            if position == len(theirs):
                leg.reading = False
                arrived()
                return
            for layer in range(LAYERS):
                payload = source.memory.read(layer, [theirs[position]])
                if leg.mode == "full" and world.faults.corrupt and world.rng.random() < world.faults.corrupt:
                    payload = flipped(payload)
                self.memory.write(leg.request_id, layer, leg.block_ids[position], payload)
            world.after(world.rng.random() * 0.6, step, position + 1)

        def arrived() -> None:
            if leg.claim.over:
                self._settle(leg)
            else:
                self._world.send(self._producers[address].digest, check.digest_request(), on_digests)

        def on_digests(digests: list[int], error: str) -> None:
            if leg.settled or not self.alive:
                return
            if error:
                self._fail(leg, error)
                return
            assert leg.block_ids is not None
            try:
                check.compare(digests, self.memory.digests([leg.block_ids[n] for n in check.positions]))
            except Corrupt as corrupt:
                self._fail(leg, str(corrupt), True)
                return
            leg.claim.verify()
            self._settle(leg)

        self._world.send(self._producers[address].digest, check.claim_request(), on_claimed)

    # The end of a claim

    def _fail(self, leg: Leg, error: str, corrupt: bool = False) -> None:
        if not leg.settled and self.alive:
            leg.claim.fail(error, corrupt)
            if not leg.reading:
                self._settle(leg)

    def _settle(self, leg: Leg) -> None:
        """As the puller does: what the engine is told, then the producer."""
        if leg.settled or not self.alive:
            return
        loaded = leg.claim.may_read
        reason = leg.claim.finish()
        leg.settled = True
        self._release(leg, reason)
        if leg.ended:
            self._free(leg)
            return
        assert leg.block_ids is not None
        if loaded:
            self.memory.check(leg.block_ids, leg.ticket.request_id, leg.ticket.producer_epoch)
            self.loaded += 1
        else:
            self.memory.compute(leg.request_id, leg.block_ids, leg.ticket.request_id, "own")
            self.recomputed += 1
        self._world.send(leg.told, "first")
        self._world.after(self._world.rng.random(), self._finish, leg)

    def _finish(self, leg: Leg) -> None:
        if not leg.ended and self.alive:
            leg.ended = True
            self._free(leg)
            self._world.send(leg.told, "last")

    def _free(self, leg: Leg) -> None:
        assert leg.block_ids is not None
        self.memory.free(leg.request_id, leg.block_ids)

    def _release(self, leg: Leg, reason: str) -> None:
        ticket = leg.ticket
        request = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason=reason)
        self._world.send(self._producers[ticket.producer_id].release, request)
