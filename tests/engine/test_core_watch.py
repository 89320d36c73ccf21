from __future__ import annotations

from segue.engine.core_watch import POLL_S, HeldOffers


def test_an_offer_counts_before_the_core_counts_it_and_no_longer_than_until_it_does() -> None:
    held = HeldOffers()
    held.on_offer(now_s=10.0)
    held.on_count(0)  # Asked before the step that records the offer.
    assert held.at_least(10.0 + POLL_S) == 1
    held.on_count(1)
    assert held.at_least(10.0 + 5 * POLL_S) == 1
    held.on_count(0)
    assert held.at_least(10.0 + 5 * POLL_S) == 0


def test_an_offer_that_both_know_counts_once() -> None:
    held = HeldOffers()
    held.on_offer(now_s=10.0)
    held.on_count(1)
    assert held.at_least(10.0) == 1
