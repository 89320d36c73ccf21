"""A router with the real bookkeeping of the tickets it carries."""

from __future__ import annotations

from dataclasses import dataclass

from segue.kv_transfer.held_ticket import HeldTicket, HeldTickets
from segue.kv_transfer.read_check import DigestMode
from segue.proto.kv_transfer_pb2 import ReleaseRequest, Ticket
from tests.kv_transfer.simulation.consumer import Consumer, Leg
from tests.kv_transfer.simulation.producer import LEASE_S, Producer
from tests.kv_transfer.simulation.world import World


@dataclass(slots=True)
class Open:
    request_id: str
    blocks: int
    mode: DigestMode | None
    until_s: float
    held: HeldTicket | None = None
    consumer: str = ""
    over: bool = False


class Router:
    """One process. Workers are looked up by name when something is sent: whoever is there then gets it."""

    def __init__(self, world: World, producers: dict[str, Producer], consumers: dict[str, Consumer]) -> None:
        self.alive = True
        self._world = world
        self._producers = producers
        self._consumers = consumers
        self._tickets = HeldTickets()
        self._open: dict[str, Open] = {}
        self._looking = False

    def start(self, request: Open) -> None:
        if not self.alive:
            return
        self._open[request.request_id] = request
        self._prefill(request)
        self._world.after(max(0.0, request.until_s - self._world.now_s), self.end, request.request_id)
        if not self._looking:
            self._looking = True
            self._look()

    def _prefill(self, request: Open) -> None:
        def reply(ticket: Ticket) -> None:
            self.on_offer(request, ticket)

        self._world.send(self._producers["p"].submit, request.request_id, request.blocks, reply)

    def on_offer(self, request: Open, ticket: Ticket) -> None:
        if not self.alive:
            return
        held = request.held
        if request.over or (held is not None and not self._same(held.ticket, ticket)):
            self._release(ticket, "late")
        elif held is None:
            request.held = self._tickets.add(ticket, self._world.now_s)
            self._world.soon(self.assign, request, "c0")

    @staticmethod
    def _same(one: Ticket, other: Ticket) -> bool:
        return (one.ticket_id, one.producer_epoch) == (other.ticket_id, other.producer_epoch)

    def assign(self, request: Open, consumer: str) -> None:
        if request.over or not self.alive or request.held is None:
            return
        request.held.assign()
        request.consumer = consumer

        def told(what: str) -> None:
            if self.alive and request.held is not None and request.consumer == consumer:
                request.held.consumed()
                if what == "last":
                    self.end(request.request_id)

        leg = Leg(request.request_id, request.held.ticket, request.mode, told)
        self._world.send(self._consumers[consumer].submit, leg, request.until_s - self._world.now_s)

    def consumer_lost(self, name: str) -> None:
        for request in list(self._open.values()):
            if request.consumer == name:
                self.assign(request, "c1" if name == "c0" else "c0")

    def producer_lost(self, name: str, epoch: str) -> None:
        """What only computes there, or was offered and not taken over yet, is asked for again."""
        if not self.alive:
            return
        self._tickets.producer_lost(name, epoch)
        for request in list(self._open.values()):
            if not request.consumer and (request.held is None or request.held.over):
                request.held = None
                self._prefill(request)

    def end(self, request_id: str) -> None:
        """Finished, cancelled or out of time: both workers are told whatever they may still hold."""
        request = self._open.pop(request_id, None)
        if request is None or not self.alive:
            return
        request.over = True
        self._world.send(self._producers["p"].abort, request_id)
        if request.consumer:
            self._world.send(self._consumers[request.consumer].abort, request_id)
        if request.held is not None and request.held.end():
            self._release(request.held.ticket, "ended")

    def _release(self, ticket: Ticket, reason: str) -> None:
        release = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason=reason)
        self._world.send(self._producers["p"].release, release)

    def _look(self) -> None:
        """As the router's own loop does."""
        if not self._open or not self.alive:
            self._looking = False
            return
        for producer_id, renewal in self._tickets.renewals(self._world.now_s):
            self._world.send(self._producers[producer_id].renew, renewal)
        self._world.after(LEASE_S / 8, self._look)
