"""What a router knows of the tickets it carries: who may still claim them, and when their leases want renewing.

No I/O; times are seconds of one monotonic clock, the caller's. The router hears neither claim nor transfer, so it goes
by what it can see: a ticket given to a decode worker is taken for claimed, and the first output of that worker says
that the hand-off is over (the blocks arrived, or it computed them itself). Until then the lease is renewed, however
long the request waits in front of decode.
"""

from __future__ import annotations

from collections.abc import Iterator

from segue.kv_transfer.handoff import Event, Role, State, View
from segue.proto.kv_transfer_pb2 import RenewRequest, Ticket

# A lease survives two renewals that are lost or late.
RENEWALS_PER_LEASE = 3


class HeldTicket:
    """One ticket from the moment the router gets it."""

    __slots__ = ("_asked_at_s", "_renewed_at_s", "_view", "ticket")

    def __init__(self, ticket: Ticket, now_s: float) -> None:
        self.ticket = ticket
        self._view = View(Role.ROUTER, State.OFFERED)
        self._renewed_at_s = self._asked_at_s = now_s

    @property
    def state(self) -> State:
        return self._view.state

    @property
    def unclaimed(self) -> bool:
        """Nobody has been given it."""
        return self._view.state is State.OFFERED

    @property
    def over(self) -> bool:
        return self._view.over

    @property
    def expires_at_s(self) -> float:
        """When the producer may have taken the blocks back, by the last renewal that is known to have arrived."""
        return self._renewed_at_s + self.ticket.lease_s

    def assign(self) -> None:
        """A decode worker is given the ticket, and so has claimed it for all the router knows.

        It may be given to another one if that one is lost. If the first had claimed it after all, the claim of the
        second is refused and it computes the prompt itself: slower, never wrong.
        """
        self._view.hear(Event.CLAIM)

    def consumed(self) -> None:
        """Decode's first output has come: it has what it needs and has given the ticket back itself."""
        self._view.hear(Event.ACKNOWLEDGE)

    def lapsed(self, now_s: float) -> bool:
        """Whether the lease may have run out, so that a claim would probably be refused. Changes nothing."""
        return self.over or now_s >= self.expires_at_s

    def gone(self) -> None:
        """The producer says that it doesn't hold the blocks any more."""
        self._view.hear(Event.EXPIRE)

    def producer_lost(self) -> None:
        """The producer's process is gone and its blocks with it: nobody is left to release them at."""
        self._view.hear(Event.FAIL)

    def end(self) -> bool:
        """The request has ended, or nobody will claim; whether the ticket must be released at its producer."""
        return self._view.cause(Event.REVOKE)

    def due_for_renewal(self, now_s: float) -> bool:
        return not self.over and now_s >= self._asked_at_s + self.ticket.lease_s / RENEWALS_PER_LEASE

    def asked(self, now_s: float) -> None:
        """A renewal has been sent; the next one is due a third of a lease later."""
        self._asked_at_s = now_s

    def renewed(self, asked_at_s: float) -> None:
        """The renewal that was sent at ``asked_at_s`` has arrived. Without this the lease counts as unrenewed, which
        only makes :meth:`lapsed` pessimistic."""
        self._renewed_at_s = max(self._renewed_at_s, asked_at_s)


class HeldTickets:
    """All tickets a router carries, by id. Forgets those that are over when it is asked for renewals."""

    def __init__(self) -> None:
        self._held: dict[str, HeldTicket] = {}

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[HeldTicket]:
        return iter(self._held.values())

    def get(self, ticket_id: str) -> HeldTicket | None:
        return self._held.get(ticket_id)

    def add(self, ticket: Ticket, now_s: float) -> HeldTicket:
        held = self._held[ticket.ticket_id] = HeldTicket(ticket, now_s)
        return held

    def producer_lost(self, producer_id: str, epoch: str) -> None:
        """A worker is gone, or has come back with another epoch: what ``epoch`` of it held is lost."""
        for held in self._held.values():
            if (held.ticket.producer_id, held.ticket.producer_epoch) == (producer_id, epoch):
                held.producer_lost()

    def renewals(self, now_s: float) -> list[tuple[str, RenewRequest]]:
        """What to send now: at most one request for each producer (by worker id) and epoch. Counts as sent."""
        self._held = {name: held for name, held in self._held.items() if not held.over}
        due: dict[tuple[str, str], RenewRequest] = {}
        for name, held in self._held.items():
            if held.due_for_renewal(now_s):
                key = held.ticket.producer_id, held.ticket.producer_epoch
                request = due.setdefault(key, RenewRequest(producer_epoch=key[1]))
                request.ticket_ids.append(name)
                held.asked(now_s)
        return [(producer_id, request) for (producer_id, _), request in due.items()]
