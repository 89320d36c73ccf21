"""Both ends of the hand-off, a router and a bad link, through 100,000 schedules on a fake clock.

What is promised: a block never has two owners, none leaks once every lease has passed, and decode never reads anything
but the verified KV of its own request and epoch. A schedule is its seed; one that fails says how to run it alone:

    SEGUE_SCHEDULE=4711 pytest tests/kv_transfer/simulation -k alone

``SEGUE_SCHEDULES_FROM=N`` moves the range to other seeds.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.kv_transfer import producer_end
from segue.kv_transfer.consumer_claim import ConsumerClaim
from segue.kv_transfer.handoff import State
from segue.kv_transfer.offers import Offer, OfferBook, TicketRefused
from segue.kv_transfer.read_check import ReadCheck
from segue.kv_transfer.receiving import Receiver
from segue.proto.kv_transfer_pb2 import KvChunk
from tests.kv_transfer.simulation.consumer import Consumer
from tests.kv_transfer.simulation.memory import LAYER_BLOCK_BYTES
from tests.kv_transfer.simulation.schedule import run
from tests.kv_transfer.simulation.world import CALM, Faults, Violation

SCHEDULES = 100_000
PARTS = 10
FIRST = int(os.environ.get("SEGUE_SCHEDULES_FROM", "0"))


@pytest.fixture(autouse=True, scope="module")
def one_block_a_chunk() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("segue.kv_transfer.chunks.CHUNK_BYTES", LAYER_BLOCK_BYTES)
        yield


def failing(seeds: range) -> Iterator[tuple[int, Violation]]:
    for seed in seeds:
        try:
            run(seed)
        except Violation as violation:
            yield seed, violation


@pytest.mark.parametrize("part", range(PARTS))
def test_every_schedule_keeps_the_promises(part: int) -> None:
    count = SCHEDULES // PARTS
    seeds = range(FIRST + part * count, FIRST + (part + 1) * count)
    print(f"seeds {seeds.start} to {seeds.stop - 1}")
    loaded = recomputed = 0
    for seed in seeds:
        try:
            outcome = run(seed)
        except Exception as fault:
            fault.add_note(f"alone: SEGUE_SCHEDULE={seed} pytest tests/kv_transfer/simulation -k alone")
            raise
        loaded += outcome.loaded
        recomputed += outcome.recomputed
    # Schedules in which nothing is ever handed over, or nothing ever goes wrong, would prove nothing.
    assert loaded > count / 2
    assert recomputed > count / 10


@pytest.mark.skipif("SEGUE_SCHEDULE" not in os.environ, reason="names one seed: SEGUE_SCHEDULE")
def test_one_schedule_alone() -> None:
    print(run(int(os.environ["SEGUE_SCHEDULE"])))


def test_a_schedule_is_its_seed() -> None:
    assert [run(seed) for seed in range(50)] == [run(seed) for seed in range(50)]


def test_where_nothing_goes_wrong_every_request_is_handed_over() -> None:
    """Also those that wait for blocks in decode's queue longer than a lease: the router renews."""
    for seed in range(500):
        outcome = run(seed, CALM)
        assert outcome.loaded
        assert outcome.recomputed == 0


@pytest.mark.parametrize("kind", range(6))
def test_each_kind_of_fault_alone_is_survived(kind: int) -> None:
    faults = Faults(*(0.4 if number == kind else 0.0 for number in range(6)))
    for seed in range(300):
        run(seed, faults)


probabilities = st.floats(0, 0.5)


@given(st.integers(0, 2**32), st.builds(Faults, *[probabilities] * 6))
@settings(max_examples=500)
def test_any_mix_of_faults_is_survived(seed: int, faults: Faults) -> None:
    """Hypothesis looks for mixes that the seeds' own draw would not give, and makes what fails small."""
    run(seed, faults)


# The simulation bites: each of these breaks one thing the promises rest on, and is caught.


def no_epoch_check(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OfferBook, "_check_epoch", lambda *_: None)


def no_request_check(patch: pytest.MonkeyPatch) -> None:
    """Tickets of two epochs have the same ids here, so this needs the epoch's check gone too to show."""
    no_epoch_check(patch)
    held = OfferBook._held

    def of_any_request(self: OfferBook, ticket_id: str, request_id: str) -> Offer:
        offer = self._offers.get(ticket_id)
        return held(self, ticket_id, request_id if offer is None else offer.request_id)

    patch.setattr(OfferBook, "_held", of_any_request)


def freed_on_claim(patch: pytest.MonkeyPatch) -> None:
    claim = OfferBook.claim

    def claim_and_free(self: OfferBook, *args: Any, **kwargs: Any) -> Offer:
        offer = claim(self, *args, **kwargs)
        self._over.append(offer.engine_request_id)
        return offer

    patch.setattr(OfferBook, "claim", claim_and_free)


def no_digests_of_chunks(patch: pytest.MonkeyPatch) -> None:
    accept = Receiver.accept

    def accept_anything(self: Receiver, chunk: KvChunk) -> None:
        patch.setattr("segue.kv_transfer.receiving.digest_of", lambda _: chunk.digest)
        accept(self, chunk)

    patch.setattr(Receiver, "accept", accept_anything)


def no_order_of_chunks(patch: pytest.MonkeyPatch) -> None:
    def accept_any_order(self: Receiver, chunk: KvChunk) -> None:
        self._digests.append(chunk.digest)
        self._last = chunk
        if chunk.last:
            self._layer = self._layers

    patch.setattr(Receiver, "accept", accept_any_order)
    patch.setattr("segue.kv_transfer.receiving.digest_of_digests", lambda digests: 0)
    patch.setattr(producer_end, "digest_of_digests", lambda digests: 0)


def no_digests_of_reads(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ReadCheck, "compare", lambda *_: None)


def reads_not_confirmed(patch: pytest.MonkeyPatch) -> None:
    """With digests off, the answer after a read is what says that the blocks were held all the while."""
    claimed = OfferBook.claimed

    def whatever(self: OfferBook, ticket_id: str, epoch: str, request_id: str) -> Offer:
        try:
            return claimed(self, ticket_id, epoch, request_id)
        except TicketRefused:
            return Offer(ticket_id, request_id, request_id, (0, 1, 2), 3, 0.0)

    patch.setattr(OfferBook, "claimed", whatever)


def sent_without_a_look(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(producer_end, "_still_held", lambda _: None)


def read_unverified(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ConsumerClaim, "may_read", property(lambda claim: claim.state is not State.REVOKED))


def freed_while_written(patch: pytest.MonkeyPatch) -> None:
    abort = Consumer.abort

    def abort_and_free(self: Consumer, request_id: str) -> None:
        leg = self._legs.get(request_id)
        if leg is not None and self.alive and not leg.ended and not leg.settled and leg.block_ids is not None:
            leg.ended = leg.settled = True
            self._free(leg)
            return
        abort(self, request_id)

    patch.setattr(Consumer, "abort", abort_and_free)


def written_after_cancel(patch: pytest.MonkeyPatch) -> None:
    """The report that frees the blocks comes at once, whatever is still on its way."""
    abort = Consumer.abort

    def abort_and_settle(self: Consumer, request_id: str) -> None:
        leg = self._legs.get(request_id)
        abort(self, request_id)
        if leg is not None and leg.reading:
            self._settle(leg)

    patch.setattr(Consumer, "abort", abort_and_settle)


def no_lease(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(OfferBook, "expire", lambda *_: ())


def freed_twice(patch: pytest.MonkeyPatch) -> None:
    take_over = OfferBook.take_over
    patch.setattr(OfferBook, "take_over", lambda self: [*take_over(self)] * 2)


def a_report_of_its_own_end_lost(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Consumer, "_settle", lambda *_: None)


BROKEN: tuple[Callable[[pytest.MonkeyPatch], None], ...] = (
    no_epoch_check,
    no_request_check,
    freed_on_claim,
    no_digests_of_chunks,
    no_order_of_chunks,
    no_digests_of_reads,
    reads_not_confirmed,
    sent_without_a_look,
    read_unverified,
    freed_while_written,
    written_after_cancel,
    no_lease,
    freed_twice,
    a_report_of_its_own_end_lost,
)


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_what_is_broken_on_purpose_is_caught(broken: Callable[[pytest.MonkeyPatch], None], monkeypatch: Any) -> None:
    broken(monkeypatch)
    seed, violation = next(failing(range(20_000)))
    print(f"seed {seed}: {violation}")
