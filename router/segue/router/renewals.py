"""When the leases of unclaimed KV caches are to be renewed. Clock passed in."""

from __future__ import annotations

from collections.abc import Iterable

from segue.proto.kv_transfer_pb2 import Ticket

_PARTS = 3  # A lease is renewed when a third of it is over: two renewals may be lost.


class Renewals:
    """Knows the tickets that it was last asked about, and when each is due."""

    def __init__(self) -> None:
        self._due_s: dict[str, float] = {}

    def due(self, unclaimed: Iterable[Ticket], now_s: float) -> list[Ticket]:
        """Those of the tickets, all that are unclaimed now, that are to be renewed now."""
        due, due_s = [], {}
        for ticket in unclaimed:
            next_s = self._due_s.get(ticket.ticket_id)
            if next_s is not None and now_s < next_s:
                due_s[ticket.ticket_id] = next_s
                continue
            due_s[ticket.ticket_id] = now_s + ticket.lease_s / _PARTS
            if next_s is not None:
                due.append(ticket)
        self._due_s = due_s
        return due
