"""What outcomes say of a cluster under overload."""

from __future__ import annotations

import math

import pytest
from reliability.client import Outcome, Target
from reliability.goodput import Slo, by_second, goodput_per_s, last_refusal_s, percentile, summary
from reliability.tables import between

SLO = Slo(ttft_s=1.0, itl_s=0.1, output_tokens=11)


def answered(sent_s: float, ttft_s: float = 0.5, itl_s: float = 0.05) -> Outcome:
    return Outcome(sent_s, sent_s + ttft_s, sent_s + ttft_s + 10 * itl_s, 200, path="seeded")


def refused(sent_s: float, after_s: float = 0.01, retry_after_s: float | None = 1.0) -> Outcome:
    return Outcome(sent_s, None, sent_s + after_s, 429, retry_after_s, error="busy")


def test_an_answer_counts_if_it_began_in_time_and_kept_its_pace() -> None:
    assert SLO.met(answered(0.0))
    assert not SLO.met(answered(0.0, ttft_s=1.5))
    assert not SLO.met(answered(0.0, itl_s=0.2))
    assert not SLO.met(refused(0.0))
    assert not SLO.met(Outcome(0.0, 0.5, 1.0, 200, error="the stream ended early"))


def test_a_longer_answer_may_take_longer() -> None:
    assert not SLO.met(Outcome(0.0, 0.5, 2.5, 200))
    assert SLO.met(Outcome(0.0, 0.5, 2.5, 200, tokens=21))


def test_lengths_are_spread_and_those_of_a_prompt_stay_the_same() -> None:
    target = Target("", "", 10, 100, 1.0, output_spread=0.5)
    lengths = [target.length(f"prompt {number}") for number in range(200)]
    assert lengths == [target.length(f"prompt {number}") for number in range(200)]
    assert 50 <= min(lengths) < 60
    assert 140 < max(lengths) <= 150


def test_the_last_refusal_is_counted_from_the_drop() -> None:
    assert last_refusal_s([refused(4.0), answered(5.5), refused(6.25), answered(7.0)], 5.0) == 1.25
    assert last_refusal_s([refused(4.0), answered(5.5)], 5.0) == 0.0


def test_goodput_counts_answers_by_when_they_ended() -> None:
    outcomes = [answered(0.0), answered(1.5), answered(3.5), refused(1.6)]
    assert goodput_per_s(outcomes, SLO, 1.0, 3.0) == 1.0


def test_the_summary_tells_refusals_from_failures() -> None:
    outcomes = [answered(0.0), refused(0.1), refused(0.2, 0.08, None), Outcome(0.3, None, 0.4, 500, error="oh")]
    found = summary(outcomes, SLO, 0.0, 1.0)
    assert (found["sent"], found["answered"], found["refused"], found["other_errors"]) == (4, 1, 2, 1)
    assert found["refused_without_retry_after"] == 1
    assert found["refused_within_50_ms"] == 0.5
    assert found["first_other_errors"] == ["500 oh"]


def test_seconds_are_of_the_sending() -> None:
    seconds = by_second([answered(0.9), refused(1.0), answered(1.2)], SLO, 0.0, 2.0)
    assert [(one.sent, one.met_slo, one.refused) for one in seconds] == [(1, 1, 0), (2, 1, 1)]


def test_percentiles() -> None:
    assert percentile([3, 1, 2], 50) == 2
    assert percentile([3, 1, 2], 100) == 3
    assert math.isnan(percentile([], 50))


def test_figures_replace_the_ones_before_them() -> None:
    page = "a\n<!-- soak -->\nold\n<!-- /soak -->\nb\n"
    assert between(page, "soak", "new") == "a\n<!-- soak -->\nnew\n<!-- /soak -->\nb\n"
    with pytest.raises(ValueError, match="has no <!-- overload -->"):
        between(page, "overload", "new")
