"""When answers that are being written will be over."""

from __future__ import annotations

import pytest

from segue.router.rates.stays import StayMeter


def after(answers: list[tuple[int, int]], token_s: float = 0.01) -> StayMeter:
    """One that has seen these answers, each the most tokens that it might get and what it got."""
    meter = StayMeter()
    for number, (most, tokens) in enumerate(answers):
        meter.began(str(number), most, 0.0)
        meter.ended(str(number), tokens, token_s * (tokens - 1))
    return meter


def test_each_answer_ends_its_own_length_behind_its_own_beginning() -> None:
    meter = after([(100, 100), (50, 50), (200, 200)])
    for name, most, began_s in (("a", 300, 10.0), ("b", 100, 10.5), ("c", 100, 10.2)):
        meter.began(name, most, began_s)
    assert meter.ends_s(10.6, 0.0) == pytest.approx((11.2, 11.5, 13.0))
    meter.gone("c")
    meter.ended("b", 100, 11.49)
    assert meter.ends_s(11.5, 0.0) == pytest.approx((13.0,))


def test_where_answers_end_by_themselves_their_mean_counts() -> None:
    meter = after([(1000, 80), (1000, 120), (1000, 90), (1000, 110)] * 5)
    meter.began("a", 1000, 10.0)
    meter.began("b", 40, 10.0)
    first_s, then_s = meter.ends_s(10.0, 0.0)
    assert first_s == pytest.approx(10.4)
    assert then_s == pytest.approx(11.0, abs=0.05)


def test_an_answer_that_is_longer_than_expected_goes_on_for_a_while() -> None:
    meter = after([(1000, 80), (1000, 120), (1000, 90), (1000, 110)] * 5)
    meter.began("a", 1000, 10.0)
    assert 20.05 < meter.ends_s(20.0, 0.0)[0] < 20.5


def test_before_any_has_ended_steps_tell_the_pace() -> None:
    meter = StayMeter()
    meter.began("a", 100, 10.0)
    assert meter.ends_s(10.0, 0.0) == ()
    assert meter.ends_s(10.0, 0.02) == pytest.approx((12.0,))
