"""The arithmetic behind the comparison's table."""

import dataclasses

import pytest
from comparison.figures import Figures, Measurement, Ratio, agreement, figures, paired_ratios, percentile
from comparison.load import Load, Sample, failed


def _sample(prompt: str, times_s: tuple[float, ...], output_tokens: int, text: str = "text") -> Sample:
    return Sample(prompt, text, times_s, prompt_tokens=5, output_tokens=output_tokens)


def _measurement(stack: str, round_: int, tokens_per_s: float, ttft_ms: float) -> Measurement:
    return Measurement(
        stack=stack,
        round=round_,
        concurrency=8,
        figures=Figures(tokens_per_s, ttft_ms, ttft_ms, 10.0, 10.0),
        requests=1,
        failures=0,
        prompt_tokens=1,
        output_tokens=1,
        chunks=1,
        wall_s=1.0,
        paths={},
        other_cpu_cores=0.0,
    )


@pytest.mark.parametrize(("percent", "value"), [(50, 2), (75, 3), (99, 4), (100, 4), (0, 1)])
def test_percentile_is_a_value_seen(percent: float, value: float) -> None:
    assert percentile([4, 1, 3, 2], percent) == value


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_figures_of_two_requests() -> None:
    load = Load((_sample("a", (0.1, 0.2, 0.4), 3), _sample("b", (0.3, 0.4, 0.5), 3)), wall_s=2.0)
    got = figures(load)
    assert got.tokens_per_s == 3.0
    assert got.ttft_p50_ms == pytest.approx(100)
    assert got.ttft_p99_ms == pytest.approx(300)
    assert got.itl_mean_ms == pytest.approx((150 + 100) / 2)
    assert got.itl_p99_ms == pytest.approx(200)


def test_tokens_that_share_a_chunk_count_in_the_mean_gap_between_tokens() -> None:
    load = Load((_sample("a", (0.1, 0.5), 5),), wall_s=1.0)
    assert figures(load).itl_mean_ms == pytest.approx(100)


def test_failed_requests_count_in_no_figure() -> None:
    load = Load((failed("a", "HTTP 503"), _sample("b", (0.3, 0.4), 2)), wall_s=1.0)
    assert figures(load).tokens_per_s == 2.0


def test_a_loop_without_one_answer_has_no_figures() -> None:
    with pytest.raises(ValueError, match="none of 1 requests was answered; the first: HTTP 503"):
        figures(Load((failed("a", "HTTP 503"),), wall_s=1.0))


def test_ratios_are_paired_by_round() -> None:
    stock = [_measurement("stock", 1, 100, 200), _measurement("stock", 2, 200, 100)]
    segue = [_measurement("segue", 2, 400, 50), _measurement("segue", 1, 300, 50)]
    ratios = paired_ratios(stock, segue)
    assert ratios["tokens_per_s"] == Ratio(median=2.5, low=2.0, high=3.0)
    assert ratios["ttft_p50_ms"] == Ratio(median=0.375, low=0.25, high=0.5)


def test_a_round_without_its_pair_is_left_out() -> None:
    stock = [_measurement("stock", 1, 100, 200)]
    segue = [_measurement("segue", 1, 300, 50), _measurement("segue", 2, 900, 50)]
    assert paired_ratios(stock, segue)["tokens_per_s"] == Ratio(3.0, 3.0, 3.0)
    assert paired_ratios([], segue) == {}


def test_agreement_compares_what_both_answered() -> None:
    ours = [_sample("a", (0.1,), 1), _sample("b", (0.1,), 1), _sample("c", (0.1,), 1)]
    theirs = [
        _sample("b", (0.2,), 1, text="other"),
        _sample("a", (0.2,), 1),
        dataclasses.replace(ours[2], error="timed out"),
    ]
    found = agreement(ours, theirs)
    assert (found.compared, found.same) == (2, 1)


def test_a_character_cut_off_at_the_end_is_counted_apart() -> None:
    ours = [_sample("a", (0.1,), 1, text="end\ufffd"), _sample("b", (0.1,), 1, text="en\ufffdd")]
    theirs = [_sample("a", (0.1,), 1, text="end"), _sample("b", (0.1,), 1, text="end")]
    found = agreement(ours, theirs)
    assert (found.compared, found.same, found.same_but_cut_character) == (2, 0, 1)
