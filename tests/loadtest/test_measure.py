"""What outcomes say, taken together."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.loadtest.measure.distribution import Distribution
from segue.loadtest.measure.lag import GeneratorLoad, judge
from segue.loadtest.measure.outcome import Failure, Legs, Outcome
from segue.loadtest.measure.result import FORMAT, Result, ResultError, Samples, read_result, write_result
from segue.loadtest.measure.slo import Slo, SloTable
from segue.loadtest.measure.summary import summarize
from segue.loadtest.measure.windows import window_length_s, windows

SLOS = SloTable.parse(["ttft_s:0.5,itl_s:0.1", "batch=itl_s:10"])


def answered(
    at_s: float = 0.0,
    *,
    ttft_s: float = 0.1,
    gaps_s: tuple[float, ...] = (0.01, 0.01),
    late_s: float = 0.0,
    slo_class: str = "",
    tokens: int = 0,
) -> Outcome:
    """Sent ``late_s`` after ``at_s``; first token ``ttft_s`` after ``at_s``; one token a chunk."""
    outcome = Outcome(0, slo_class, at_s, at_s + late_s, 10, len(gaps_s) + 1)
    now_s = at_s + ttft_s
    outcome.on_chunk(now_s)
    for gap_s in gaps_s:
        now_s += gap_s
        outcome.on_chunk(now_s)
    outcome.output_tokens, outcome.counted = tokens or len(gaps_s) + 1, True
    outcome.finish_reason = "length"
    outcome.close(now_s)
    return outcome


def failed(at_s: float = 0.0, failure: Failure = Failure.REFUSED) -> Outcome:
    outcome = Outcome(0, "", at_s, at_s, 10, 3)
    outcome.fail(failure, "no")
    outcome.close(at_s + 0.01)
    return outcome


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=300))
def test_percentiles_are_numpys(values: list[float]) -> None:
    one = Distribution.of(values)

    assert (one.p50, one.p90, one.p95, one.p99) == tuple(np.percentile(values, (50, 90, 95, 99)))
    assert (one.count, one.max) == (len(values), max(values))
    assert math.isclose(one.mean, sum(values) / len(values), abs_tol=1e-9)


def test_nothing_has_a_distribution_too() -> None:
    assert Distribution.of([]) == Distribution(0)


def test_latencies_count_from_when_a_request_was_to_be_sent() -> None:
    figures = summarize([answered(ttft_s=0.3, late_s=0.2)], SLOS).total

    assert figures.ttft_s.mean == pytest.approx(0.3)
    assert figures.sent_ttft_s.mean == pytest.approx(0.1)
    assert figures.end_to_end_s.mean == pytest.approx(0.32)


def test_several_tokens_in_a_chunk_keep_pace_and_gaps_apart() -> None:
    outcome = answered(gaps_s=(0.4, 0.4), tokens=9)

    figures = summarize([outcome], SLOS).total

    assert figures.itl_s.mean == pytest.approx(0.1)  # 0.8 s for 8 tokens after the first.
    assert figures.gap_s.p50 == pytest.approx(0.4)
    assert figures.tokens_per_chunk == 3


def test_without_usage_a_chunk_counts_as_a_token() -> None:
    outcome = Outcome(0, "", 0.0, 0.0, 10, 3)
    outcome.on_chunk(0.1)
    outcome.on_chunk(0.2)
    outcome.finish_reason = "stop"
    outcome.close(0.2)

    summary = summarize([outcome], SLOS)

    assert (summary.total.output_tokens, summary.uncounted) == (2, 1)


def test_a_stream_without_a_finish_reason_is_a_failure() -> None:
    outcome = Outcome(0, "", 0.0, 0.0, 10, 3)
    outcome.on_chunk(0.1)
    outcome.close(0.2)

    assert outcome.failure is Failure.INCOMPLETE


def test_the_first_failure_stands() -> None:
    outcome = Outcome(0, "", 0.0, 0.0, 10, 3)
    outcome.fail(Failure.RESET, "broken")
    outcome.fail(Failure.TIMEOUT, "late")
    outcome.close(1.0)

    assert (outcome.failure, outcome.detail) == (Failure.RESET, "broken")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.2), st.booleans()), max_size=30))
def test_goodput_counts_answers_that_kept_both_bounds(cases: list[tuple[float, float, bool]]) -> None:
    outcomes = [
        answered(float(at), ttft_s=ttft_s, gaps_s=(gap_s, gap_s)) if ok else failed(float(at))
        for at, (ttft_s, gap_s, ok) in enumerate(cases)
    ]

    figures = summarize(outcomes, SLOS).total

    met = [one for one in outcomes if one.ok and one.ttft_s <= 0.5 and (one.itl_s or 0) <= 0.1]
    assert figures.good == len(met)
    assert figures.goodput_share == (len(met) / len(cases) if cases else 1.0)


def test_each_class_has_its_own_slo() -> None:
    slow = (1.0, 1.0)

    summary = summarize([answered(gaps_s=slow), answered(gaps_s=slow, slo_class="batch")], SLOS)

    assert {name: figures.good for name, figures in summary.by_class.items()} == {"": 0, "batch": 1}
    assert summary.total.good == 1
    assert summary.total.slo is None


def test_failures_are_counted_by_kind() -> None:
    summary = summarize([failed(), failed(), failed(failure=Failure.RESET), answered()], SLOS)

    assert summary.total.failures == {"refused": 2, "reset": 1}
    assert summary.details == {"refused": "no", "reset": "no"}
    assert summary.total.answered == 1


@pytest.mark.parametrize(
    ("text", "name", "slo"),
    [
        ("chat=ttft_s:0.5,tokens_per_s:20", "chat", Slo(0.5, 0.05)),
        ("itl_s:0.03", "", Slo(0.0, 0.03)),
        ("documents=ttft_s:2", "documents", Slo(2.0, 0.0)),
    ],
)
def test_slos_are_read(text: str, name: str, slo: Slo) -> None:
    assert Slo.parse(text) == (name, slo)


@pytest.mark.parametrize(
    ("slo", "said"),
    [
        (Slo(0.5, 1 / 30), "TTFT 500 ms, ITL 33.3 ms"),
        (Slo(10.0, 0.0), "TTFT 10000 ms"),
        (Slo(0.0, 0.0009), "ITL 0.9 ms"),
        (Slo(), "any answer"),
    ],
)
def test_slos_are_written_without_exponents(slo: Slo, said: str) -> None:
    assert str(slo) == said


@pytest.mark.parametrize("text", ["chat=ttft:1", "ttft_s:fast", "ttft_s:0", "chat=ttft_s"])
def test_an_slo_that_cant_be_read_says_how_it_is_written(text: str) -> None:
    with pytest.raises(ValueError, match="tokens_per_s:30"):
        Slo.parse(text)


def test_where_the_time_went_is_told_apart_from_the_way_to_the_client() -> None:
    outcome = answered(ttft_s=0.3, late_s=0.1)
    outcome.legs = Legs("seeded", 0.15, 0.05, 0.1, 0.02, 0.01, 1000, 0.2, "p", "d", "nixl")

    legs = summarize([outcome, failed()], SLOS).legs

    assert legs is not None
    assert legs.outside_s.mean == pytest.approx(0.05)
    assert legs.paths == {"seeded": 1}
    assert legs.transports == {"nixl": 1}
    assert not legs.simulated
    assert legs.transfer_s.mean == pytest.approx(0.01)
    assert legs.decode_itl_s.mean == pytest.approx(0.2)  # Three tokens, of which decode made two: one gap.
    assert (legs.prefill_workers, legs.decode_workers) == (1, 1)


@pytest.mark.parametrize(("path", "gaps"), [("seeded", 1), ("recomputed", 1), ("local", 2), ("exact", 2)])
def test_decodes_pace_is_of_the_gaps_that_its_time_holds(path: str, gaps: int) -> None:
    """Three tokens. Where decode begins with token 1, by itself or once more, two gaps follow, else one."""
    outcome = answered()
    outcome.legs = Legs(path, decode_s=0.2, decode_worker="d")

    legs = summarize([outcome], SLOS).legs

    assert legs is not None
    assert legs.decode_itl_s.mean == pytest.approx(0.2 / gaps)


@given(
    st.lists(
        st.tuples(st.floats(0, 30), st.floats(0, 2), st.lists(st.floats(0, 1), max_size=5)), min_size=1, max_size=20
    ),
    st.sampled_from([0.1, 1.0, 7.0]),
)
def test_windows_lose_nothing(cases: list[tuple[float, float, list[float]]], length_s: float) -> None:
    outcomes = [answered(at_s, ttft_s=ttft_s, gaps_s=tuple(gaps_s)) for at_s, ttft_s, gaps_s in cases]
    outcomes.append(failed(3.0))

    course = windows(outcomes, SLOS, length_s)

    assert sum(window.sent for window in course) == sum(window.ended for window in course) == len(outcomes)
    assert sum(window.refused for window in course) == 1
    assert sum(window.good for window in course) == sum(SLOS.met(one) for one in outcomes)
    assert sum(window.output_tokens for window in course) == pytest.approx(sum(len(gaps) + 1 for *_, gaps in cases))
    assert course[-1].in_flight == 0
    assert all(window.in_flight >= 0 for window in course)


def test_windows_are_of_round_lengths() -> None:
    assert [window_length_s(duration_s) for duration_s in (1, 30, 60, 600, 3600)] == [0.1, 0.5, 1.0, 10.0, 60.0]


def test_a_generator_that_kept_up_is_believed() -> None:
    report = judge([0.001] * 100, [GeneratorLoad((0.001,) * 100, 1.0, 10.0)], 0.05)

    assert report.valid
    assert report.cpu_share_max == 0.1


@pytest.mark.parametrize(
    ("send_lag_s", "loop_lag_s", "cpu_s", "word"),
    [(0.2, 0.0, 1.0, "sent"), (0.0, 0.2, 1.0, "loop"), (0.0, 0.0, 9.5, "95 %")],
)
def test_a_generator_that_was_the_bottleneck_says_so(
    send_lag_s: float, loop_lag_s: float, cpu_s: float, word: str
) -> None:
    report = judge([send_lag_s], [GeneratorLoad((loop_lag_s,), cpu_s, 10.0)], 0.05)

    assert not report.valid
    assert word in report.problems[0]


def test_a_load_of_which_nothing_was_measured_is_no_result() -> None:
    report = judge([], [GeneratorLoad((0.001,) * 100, 1.0, 10.0)], 0.05)

    assert not report.valid
    assert "no request was measured" in report.problems[0]


def test_a_result_comes_back_from_its_file(tmp_path: Path) -> None:
    outcomes = [answered(), failed(0.5)]
    result = Result(
        FORMAT,
        "a test",
        1.0,
        {"server": "x"},
        summarize(outcomes, SLOS),
        judge([0.0], [], 0.05),
        windows(outcomes, SLOS, 0.1),
        Samples((0.1,), (), tuple(array("d", [0.01])), (0.2,)),
    )

    write_result(result, tmp_path / "result.json")

    assert read_result(tmp_path / "result.json") == result


@pytest.mark.parametrize("text", ["", "{}", '{"format": 1}', "[1, 2]"])
def test_another_file_is_no_result(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)

    with pytest.raises(ResultError, match="segue loadtest --json"):
        read_result(tmp_path / "other.json")
