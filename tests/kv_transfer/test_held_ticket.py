"""The router's view of the tickets it carries, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.kv_transfer.held_ticket import HeldTicket, HeldTickets
from segue.kv_transfer.offers import Offer, OfferBook
from segue.proto.kv_transfer_pb2 import Ticket

LEASE_S = 30.0


def ticket(name: str = "a", producer: str = "p-0", epoch: str = "e-1") -> Ticket:
    return Ticket(ticket_id=f"kv-{name}", producer_id=producer, producer_epoch=epoch, lease_s=LEASE_S)


def test_a_ticket_is_unclaimed_until_decode_is_given_it_and_over_with_decodes_first_output() -> None:
    held = HeldTicket(ticket(), 0.0)
    assert held.unclaimed
    held.assign()
    assert not held.unclaimed
    assert not held.over
    held.consumed()
    assert held.over
    assert not held.end()


def test_a_request_that_ends_before_decode_has_answered_releases_its_ticket_once() -> None:
    for assigned in (False, True):
        held = HeldTicket(ticket(), 0.0)
        if assigned:
            held.assign()
        assert held.end()
        assert not held.end()


def test_what_a_lost_producer_held_is_not_released_there() -> None:
    held = HeldTicket(ticket(), 0.0)
    held.producer_lost()
    assert not held.end()


def test_a_ticket_may_be_given_to_a_second_worker_when_the_first_is_lost() -> None:
    held = HeldTicket(ticket(), 0.0)
    held.assign()
    held.assign()
    assert not held.over
    assert held.end()


def test_renewals_are_due_three_times_a_lease_in_whichever_state_the_ticket_waits() -> None:
    held = HeldTicket(ticket(), 100.0)
    assert not held.due_for_renewal(109.9)
    assert held.due_for_renewal(110.0)
    held.asked(110.0)
    held.assign()
    assert not held.due_for_renewal(119.9)
    assert held.due_for_renewal(120.0)
    held.consumed()
    assert not held.due_for_renewal(1000.0)


def test_only_a_renewal_that_arrived_puts_the_expiry_off() -> None:
    held = HeldTicket(ticket(), 0.0)
    held.asked(10.0)
    assert held.lapsed(30.0)
    held.renewed(10.0)
    assert not held.lapsed(39.9)
    held.renewed(5.0)
    assert held.expires_at_s == 40.0


def test_renewals_go_to_each_producer_in_one_request() -> None:
    tickets = HeldTickets()
    for name, producer in (("a", "p-0"), ("b", "p-1"), ("c", "p-0")):
        tickets.add(ticket(name, producer), 0.0)
    assert tickets.renewals(9.0) == []
    sent = {producer: list(request.ticket_ids) for producer, request in tickets.renewals(10.0)}
    assert sent == {"p-0": ["kv-a", "kv-c"], "p-1": ["kv-b"]}
    assert tickets.renewals(10.0) == []


def test_what_is_over_is_forgotten() -> None:
    tickets = HeldTickets()
    tickets.add(ticket("a"), 0.0).end()
    tickets.add(ticket("b"), 0.0)
    tickets.add(ticket("c", epoch="e-0"), 0.0)
    tickets.producer_lost("p-0", "e-0")
    tickets.renewals(0.0)
    assert [held.ticket.ticket_id for held in tickets] == ["kv-b"]
    assert tickets.get("kv-a") is None


@given(st.lists(st.floats(0.1, LEASE_S / 30), min_size=30, max_size=100), st.data())
def test_no_lease_lapses_even_if_every_second_renewal_is_lost(turns_s: list[float], data: st.DataObject) -> None:
    """Against the producer's real book, with a router that looks some thirty times a lease or more often."""
    book, tickets, now_s, lost = OfferBook("e-1"), HeldTickets(), 0.0, True
    book.add(Offer("kv-a", "req", "engine", (), 0, LEASE_S, LEASE_S))
    tickets.add(ticket(), now_s)
    for turn_s in turns_s:
        now_s += turn_s
        assert not book.expire(now_s)
        for _, request in tickets.renewals(now_s):
            lost = not lost and data.draw(st.booleans())
            if not lost:
                assert all(book.renew(name, now_s, request.lease_s) for name in request.ticket_ids)


def test_the_settings_of_a_lease_that_is_zero_renew_at_every_look() -> None:
    """Such a ticket is over at once; nothing divides by its lease."""
    held = HeldTicket(Ticket(ticket_id="kv-a"), 5.0)
    assert held.due_for_renewal(5.0)
    assert held.lapsed(5.0)


@pytest.mark.parametrize("after", ["gone", "producer_lost", "consumed"])
def test_once_over_it_stays_over(after: str) -> None:
    held = HeldTicket(ticket(), 0.0)
    getattr(held, after)()
    state = held.state
    held.assign()
    held.gone()
    held.consumed()
    assert held.state is state
