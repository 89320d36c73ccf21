from __future__ import annotations

from segue.proto.kv_transfer_pb2 import Ticket
from segue.worker.offered_tickets import ROUTER_GRACE_S, OfferedTickets


def ticket(name: str, lease_s: float = 30.0) -> Ticket:
    return Ticket(ticket_id=name, producer_epoch="e-1", lease_s=lease_s)


def book(*names: str) -> OfferedTickets:
    made = OfferedTickets()
    made.attached("router:1", "r-0")
    for name in names:
        made.add("router:1", ticket(name), now_s=0.0)
    return made


def given_back(tickets: OfferedTickets, now_s: float) -> list[str]:
    return [release.ticket_id for release in tickets.due(now_s)]


def test_nothing_is_given_back_while_the_router_is_there() -> None:
    assert given_back(book("a"), 29.0) == []


def test_a_lost_routers_tickets_are_given_back_once_after_the_grace() -> None:
    tickets = book("a", "b")
    tickets.add("router:2", ticket("c"), now_s=0.0)
    tickets.detached("router:1", 5.0)
    tickets.detached("router:1", 5.5)  # Each attempt to dial that fails says so again.
    assert given_back(tickets, 5.0 + ROUTER_GRACE_S / 2) == []
    assert given_back(tickets, 5.0 + ROUTER_GRACE_S) == ["a", "b"]
    assert given_back(tickets, 9.0) == []
    assert len(tickets) == 1


def test_what_is_over_is_forgotten() -> None:
    tickets = book("a", "b", "c")
    tickets.forget(["a", "unknown"])
    tickets.renew(["b", "unknown"], lease_s=0.0, now_s=20.0)
    assert given_back(tickets, 30.0) == []
    assert len(tickets) == 1, "the lease of c is over, that of b renewed"
    tickets.renew(["b"], lease_s=1.0, now_s=21.0)
    tickets.detached("router:1", 40.0)
    assert given_back(tickets, 49.0) == ["b"], "a renewal never shortens"


def test_the_same_process_attached_again_goes_on() -> None:
    tickets = book("a")
    tickets.detached("router:1", 1.0)
    assert tickets.attached("router:1", "r-0") == []
    assert given_back(tickets, 20.0) == []
    assert len(tickets) == 1


def test_another_process_at_the_address_has_the_tickets_of_the_first_given_back() -> None:
    tickets = book("a")
    (release,) = tickets.attached("router:1", "r-1")
    assert (release.ticket_id, release.producer_epoch) == ("a", "e-1")
    assert len(tickets) == 0


def test_an_address_that_never_was_a_router_is_no_loss() -> None:
    tickets = OfferedTickets()
    tickets.detached("router:1", 0.0)
    assert given_back(tickets, 10.0) == []
