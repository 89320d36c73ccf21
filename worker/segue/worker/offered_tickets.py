"""The tickets a worker has passed to its routers, so that those of a router that is lost can be given back.

A router that is killed releases nothing. Its tickets would be held until their leases are over; the worker, which saw
them pass, gives them back a moment after it lost the router. That moment is for a link that was cut for a blink of an
eye: the same router process, attached again, goes on with what it has. No I/O, clock passed in.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from segue.kv_transfer.offers import MAX_LEASE_S
from segue.proto.kv_transfer_pb2 import ReleaseRequest, Ticket

# How long a router may be away and still find its tickets.
ROUTER_GRACE_S = 1.0


@dataclass(slots=True)
class _Passed:
    """One router's tickets, with the time at which each is forgotten, and when the router was lost."""

    router_id: str = ""
    lost_at_s: float | None = None
    tickets: dict[str, tuple[Ticket, float]] = field(default_factory=dict)


class OfferedTickets:
    """By router address. What is known to be over is forgotten; of the rest the lease is the bound.

    An acknowledgement goes from decode straight to the engine, unseen here: giving back a ticket that is over changes
    nothing, so the book may hold more than is on offer, never for longer than a lease after the last renewal.
    """

    def __init__(self) -> None:
        self._routers: dict[str, _Passed] = {}

    def __len__(self) -> int:
        return sum(len(passed.tickets) for passed in self._routers.values())

    def attached(self, router: str, router_id: str) -> list[ReleaseRequest]:
        """A router has answered. If its process is another than before, what the earlier one had is given back."""
        passed = self._routers.setdefault(router, _Passed())
        stale = _releases(passed) if passed.router_id != router_id else []
        passed.router_id, passed.lost_at_s = router_id, None
        return stale

    def detached(self, router: str, now_s: float) -> None:
        if (passed := self._routers.get(router)) is not None and passed.lost_at_s is None:
            passed.lost_at_s = now_s

    def add(self, router: str, ticket: Ticket, now_s: float) -> None:
        self._routers.setdefault(router, _Passed()).tickets[ticket.ticket_id] = (ticket, now_s + ticket.lease_s)

    def renew(self, ticket_ids: Iterable[str], lease_s: float, now_s: float) -> None:
        """As the producer does: never shortens; 0 or too much stands for the lease that the offer began with."""
        lease_s = lease_s if 0 < lease_s <= MAX_LEASE_S else 0.0
        for passed, ticket_id in self._find(ticket_ids):
            ticket, until_s = passed.tickets[ticket_id]
            passed.tickets[ticket_id] = ticket, max(until_s, now_s + (lease_s or ticket.lease_s))

    def forget(self, ticket_ids: Iterable[str]) -> None:
        for passed, ticket_id in self._find(ticket_ids):
            del passed.tickets[ticket_id]

    def due(self, now_s: float) -> list[ReleaseRequest]:
        """What to give back now. Forgets tickets whose lease is over and routers that are gone."""
        releases = []
        for router, passed in list(self._routers.items()):
            passed.tickets = {name: entry for name, entry in passed.tickets.items() if entry[1] > now_s}
            if passed.lost_at_s is not None and now_s - passed.lost_at_s >= ROUTER_GRACE_S:
                releases += _releases(passed)
                del self._routers[router]
        return releases

    def _find(self, ticket_ids: Iterable[str]) -> list[tuple[_Passed, str]]:
        return [
            (passed, ticket_id)
            for ticket_id in ticket_ids
            for passed in self._routers.values()
            if ticket_id in passed.tickets
        ]


def _releases(passed: _Passed) -> list[ReleaseRequest]:
    tickets, passed.tickets = passed.tickets, {}
    return [
        ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason="router lost")
        for ticket, _ in tickets.values()
    ]
