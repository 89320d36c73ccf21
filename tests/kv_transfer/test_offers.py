"""The producer's book of offers, on a clock of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from segue.kv_transfer.handoff import Event
from segue.kv_transfer.offers import Offer, OfferBook, Refusal, TicketRefused

EPOCH = "epoch-1"


def offer(name: str = "a", expires_at_s: float = 10.0) -> Offer:
    return Offer(
        ticket_id=f"kv-{name}",
        request_id=f"req-{name}",
        engine_request_id=f"engine-{name}",
        block_ids=(1, 2),
        tokens=30,
        expires_at_s=expires_at_s,
    )


def book_with(*offers: Offer) -> OfferBook:
    book = OfferBook(EPOCH)
    for each in offers:
        book.add(each)
    return book


def refusal_of(claim: Callable[[], object]) -> TicketRefused:
    with pytest.raises(TicketRefused) as refused:
        claim()
    return refused.value


def test_a_claim_gives_the_offer() -> None:
    made = offer()
    assert book_with(made).claim("kv-a", EPOCH, "req-a") is made


def test_of_many_threads_claiming_one_ticket_one_gets_it() -> None:
    book = book_with(offer())
    barrier = threading.Barrier(16)

    def claim(_: int) -> str:
        barrier.wait()
        try:
            book.claim("kv-a", EPOCH, "req-a")
        except TicketRefused as refused:
            return str(refused)
        return "claimed"

    with ThreadPoolExecutor(16) as threads:
        answers = sorted(threads.map(claim, range(16)))
    assert answers == ["claimed"] + ["ticket kv-a is single-use and already claimed"] * 15


def test_a_claim_of_another_epoch_names_both_and_leaves_the_ticket() -> None:
    book = book_with(offer())
    refused = refusal_of(lambda: book.claim("kv-a", "epoch-0", "req-a"))
    assert refused.refusal is Refusal.OTHER_EPOCH
    assert "epoch-0" in str(refused)
    assert EPOCH in str(refused)
    assert book.claim("kv-a", EPOCH, "req-a")


def test_a_claim_for_another_request_names_both_and_leaves_the_ticket() -> None:
    book = book_with(offer())
    refused = refusal_of(lambda: book.claim("kv-a", EPOCH, "req-b"))
    assert refused.refusal is Refusal.OTHER_REQUEST
    assert "req-a" in str(refused)
    assert "req-b" in str(refused)
    assert book.claim("kv-a", EPOCH, "req-a")


def test_an_unknown_ticket_is_refused() -> None:
    assert refusal_of(lambda: book_with().claim("kv-x", EPOCH, "req-x")).refusal is Refusal.UNKNOWN


def test_a_claim_waits_for_an_offer_that_comes_late() -> None:
    book = OfferBook(EPOCH)
    with ThreadPoolExecutor(1) as threads:
        claimed = threads.submit(book.claim, "kv-a", EPOCH, "req-a", 60.0)
        book.add(offer("b"))
        made = offer()
        book.add(made)
        assert claimed.result(timeout=10) is made


@pytest.mark.parametrize("event", [Event.ACKNOWLEDGE, Event.REVOKE])
def test_a_ticket_that_is_over_is_refused_without_waiting(event: Event) -> None:
    """A thread that waits serves nobody else, and no offer will come under this ticket."""
    book = book_with(offer())
    assert book.record("kv-a", event)
    with ThreadPoolExecutor(1) as threads:
        claim = threads.submit(book.claim, "kv-a", EPOCH, "req-a", 30.0)
        assert isinstance(claim.exception(timeout=10), TicketRefused)


@pytest.mark.parametrize("event", [Event.ACKNOWLEDGE, Event.REVOKE])
def test_a_release_that_overtakes_its_offer_frees_the_blocks_when_the_offer_comes(event: Event) -> None:
    book = OfferBook(EPOCH)
    assert not book.record("kv-a", event)
    book.add(offer())
    assert len(book) == 0
    assert book.take_over() == {"engine-a"}
    expected = Refusal.USED if event is Event.ACKNOWLEDGE else Refusal.REVOKED
    assert refusal_of(lambda: book.claim("kv-a", EPOCH, "req-a", 30.0)).refusal is expected


def test_what_the_book_remembers_of_the_past_is_bounded() -> None:
    book = OfferBook(EPOCH)
    for number in range(100_000):
        book.record(f"kv-{number}", Event.REVOKE)
    assert len(book._closed) < 10_000


def test_offers_expire_by_the_clock_they_are_given() -> None:
    early, late = offer("early", 5.0), offer("late", 6.0)
    book = book_with(early, late)
    assert list(book.expire(4.9)) == []
    assert list(book.expire(5.0)) == [early]
    assert book.take_over() == {"engine-early"}
    assert len(book) == 1
    assert refusal_of(lambda: book.claim("kv-early", EPOCH, "req-early")).refusal is Refusal.EXPIRED


def test_an_offer_that_is_being_sent_expires_too() -> None:
    book = book_with(offer())
    book.claim("kv-a", EPOCH, "req-a")
    assert book.record("kv-a", Event.SEND)
    assert book.expire(11.0)
    assert not book.record("kv-a", Event.ACKNOWLEDGE)
    assert book.take_over() == {"engine-a"}


def test_a_renewed_offer_is_held_for_another_lease_from_the_renewal_on() -> None:
    book = OfferBook(EPOCH)
    made = offer(expires_at_s=10.0)
    made.lease_s = 10.0
    book.add(made)
    assert book.renew("kv-a", 9.0)
    assert book.expire(18.9) == []
    assert book.renew("kv-a", 18.0, lease_s=0.5)
    assert book.expire(18.9) == []
    assert book.expire(19.0) == [made]
    assert not book.renew("kv-a", 19.0)
    assert not book.renew("kv-b", 19.0)


def test_digests_are_for_whoever_claimed_and_as_long_as_the_blocks_are_held() -> None:
    book = book_with(offer())
    assert refusal_of(lambda: book.claimed("kv-a", EPOCH, "req-a")).refusal is Refusal.NOT_CLAIMED
    made = book.claim("kv-a", EPOCH, "req-a")
    assert book.claimed("kv-a", EPOCH, "req-a") is made
    assert refusal_of(lambda: book.claimed("kv-a", EPOCH, "req-b")).refusal is Refusal.OTHER_REQUEST
    assert refusal_of(lambda: book.claimed("kv-a", "epoch-0", "req-a")).refusal is Refusal.OTHER_EPOCH
    book.expire(10.0)
    assert refusal_of(lambda: book.claimed("kv-a", EPOCH, "req-a")).refusal is Refusal.EXPIRED


def test_what_is_over_is_taken_once() -> None:
    book = book_with(offer())
    book.record("kv-a", Event.REVOKE)
    assert book.take_over() == {"engine-a"}
    assert book.take_over() == set()


class Book(RuleBasedStateMachine):
    """Any use of the book frees each request's blocks exactly once, and only when its hand-off is over."""

    names = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.book = OfferBook(EPOCH)
        self.now_s = 0.0
        self.added: dict[str, Offer] = {}
        self.claimed = set[str]()
        self.taken: list[str] = []

    @rule(name=names, lease_s=st.floats(0, 10))
    def add(self, name: str, lease_s: float) -> None:
        if name not in self.added:
            self.added[name] = offer(name, self.now_s + lease_s)
            self.book.add(self.added[name])

    @rule(name=names, epoch=st.sampled_from([EPOCH, "epoch-0"]), request=names)
    def claim(self, name: str, epoch: str, request: str) -> None:
        try:
            got = self.book.claim(f"kv-{name}", epoch, f"req-{request}")
        except TicketRefused:
            return
        assert epoch == EPOCH
        assert request == name
        assert name not in self.claimed
        assert not got.handoff.over
        self.claimed.add(name)

    @rule(name=names, event=st.sampled_from(Event))
    def record(self, name: str, event: Event) -> None:
        if event is not Event.CLAIM:
            self.book.record(f"kv-{name}", event)

    @rule(by_s=st.floats(0, 5))
    def pass_time(self, by_s: float) -> None:
        self.now_s += by_s
        for expired in self.book.expire(self.now_s):
            assert expired.expires_at_s <= self.now_s

    @rule()
    def take(self) -> None:
        self.taken += self.book.take_over()

    @invariant()
    def freed_once_and_never_while_held(self) -> None:
        assert len(self.taken) == len(set(self.taken))
        by_engine_id = {each.engine_request_id: each for each in self.added.values()}
        assert all(by_engine_id[engine_id].handoff.over for engine_id in self.taken)

    def teardown(self) -> None:
        self.book.expire(float("inf"))
        self.taken += self.book.take_over()
        assert sorted(self.taken) == sorted(each.engine_request_id for each in self.added.values())
        assert len(self.book) == 0


TestBook = Book.TestCase
TestBook.settings = settings(max_examples=100, stateful_step_count=20)
