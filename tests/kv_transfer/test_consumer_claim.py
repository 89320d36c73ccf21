"""The consumer's machine against any order of what may happen to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.kv_transfer.consumer_claim import CANCELLED, ConsumerClaim
from segue.kv_transfer.handoff import State

STEPS = ("begin", "receive", "verify", "cancel", "fail")


def test_as_planned_it_may_read_until_it_acknowledges() -> None:
    claim = ConsumerClaim()
    assert claim.begin()
    assert claim.receive()
    assert not claim.may_read
    assert claim.verify()
    assert claim.may_read
    assert claim.finish() == "acknowledged"
    assert claim.state is State.RELEASED


def test_a_request_that_ended_before_presents_no_ticket() -> None:
    claim = ConsumerClaim()
    claim.cancel()
    assert not claim.begin()
    assert claim.error == CANCELLED
    assert claim.finish() == "cancelled"


def test_a_claim_given_up_unverified_is_a_failure_and_says_so() -> None:
    claim = ConsumerClaim()
    claim.begin()
    claim.receive()
    assert claim.finish() == "failed"
    assert claim.error


@given(st.lists(st.sampled_from(STEPS), max_size=12))
def test_in_any_order_it_reads_only_what_it_verified_and_never_writes_after_its_end(steps: list[str]) -> None:
    claim, verified, ended = ConsumerClaim(), False, False
    for step in steps:
        if step == "fail":
            claim.fail("broken", corrupt=True)
        elif step == "verify":
            verified |= claim.verify()
        else:
            getattr(claim, step)()
        ended |= claim.over
        assert not claim.may_read or verified
        assert not (claim.may_write and (verified or ended))
        assert bool(claim.error) == claim.over
    loaded = claim.may_read
    reason = claim.finish()
    assert claim.over
    assert (reason == "acknowledged") == loaded == (claim.error == "")
    assert not claim.corrupt or reason == "failed"
