"""The scaling study: what comes from the traces, which fixed splits are tried, and that no request is lost."""

import json
from collections import Counter
from pathlib import Path

import pytest
from scaling_study.day import Day, Traces
from scaling_study.rates import Rates
from scaling_study.report import markdown
from scaling_study.runs import Result, run, timing
from scaling_study.scalers import Candidate, fixed, scalers
from scaling_study.statics import Fixed, Seen, best_of_each_size, first_in_time, search, within_reach
from scaling_study.study import Report, Settings, read, write
from scaling_study.traffic import Arrival, Lengths, completions, conversations

CHAT = Lengths("conversation", prompt_tokens=4000, cached_tokens=512, output_tokens=100)
CODE = Lengths("code", prompt_tokens=2000, cached_tokens=0, output_tokens=20)
TRACES: Traces = {
    "conversation": [Arrival(60.0 * minute, CHAT) for minute in range(60)],
    "code": [Arrival(600.0, CODE), Arrival(601.0, CODE), Arrival(3000.0, CODE)],
}


def _result(name: str, good: float, seed: int = 1) -> Result:
    return Result(name, seed, 10.0, 0.9, 0.05, 0.05, 0.0, good, ())


def test_a_conversation_has_its_time_and_what_earlier_ones_have_sent(tmp_path: Path) -> None:
    lines = [
        {"timestamp": 0, "input_length": 1100, "output_length": 5, "hash_ids": [0, 1, 2]},
        {"timestamp": 3000, "input_length": 1300, "output_length": 7, "hash_ids": [0, 1, 9]},
    ]
    file = tmp_path / "trace.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in lines))
    assert conversations(file) == [
        Arrival(0.0, Lengths("conversation", 1100, 0, 5)),
        Arrival(3.0, Lengths("conversation", 1300, 1024, 7)),
    ]


def test_completions_count_their_time_from_the_first(tmp_path: Path) -> None:
    file = tmp_path / "trace.csv"
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.9799600,4808,10\n"
        "2023-11-16 18:18:04.4799600,3180,8\n"
    )
    assert [arrival.at_s for arrival in completions(file)] == [0.0, 60.5]


def test_recorded_requests_come_where_the_trace_has_them() -> None:
    day = Day(7200.0, "recorded", conversation_mean=1.0, code_mean=1.0)
    arrivals = day.arrivals(TRACES)
    assert [one.at_s for one in arrivals] == sorted(one.at_s for one in arrivals)
    # The trace's hour is laid over two: a minute of it lasts two.
    codes = Counter(int(one.at_s // 120) for one in arrivals if one.lengths is CODE)
    assert set(codes) == {10, 11, 50}
    assert codes[10] == pytest.approx(4800, rel=0.1)
    assert sum(one.lengths is CHAT for one in arrivals) == pytest.approx(7200, rel=0.1)


def test_the_same_seed_gives_the_same_day_and_another_one_does_not() -> None:
    one, same, other = (Day(600.0, "recorded", 1.0, 1.0, seed) for seed in (1, 1, 2))
    assert one.arrivals(TRACES) == same.arrivals(TRACES)
    assert one.arrivals(TRACES) != other.arrivals(TRACES)


@pytest.mark.parametrize("shape", ["recorded", "curve"])
def test_a_day_has_the_mean_rate_that_was_asked_for(shape: str) -> None:
    day = Day(3600.0, "curve" if shape == "curve" else "recorded", conversation_mean=2.0, code_mean=1.0)
    rates = day.rates("conversation", TRACES)
    assert sum(rates) / len(rates) == pytest.approx(2.0)
    arrivals = day.arrivals(TRACES)
    assert sum(one.lengths.kind == "conversation" for one in arrivals) == pytest.approx(7200, rel=0.1)


def test_every_split_is_tried_that_may_be_the_best() -> None:
    in_time = {1: 0.3, 2: 0.9, 3: 0.95}
    tried = search(4, in_time, 0.0, lambda one: Seen(min(in_time[one.prefill], 0.45 * one.decode), 1.0))
    assert Fixed(2, 2) in tried
    for prefill in range(1, 4):
        for decode in range(1, 5 - prefill):
            split = Fixed(prefill, decode)
            assert split in tried or in_time[prefill] / split.total <= 0.9 / 4


def test_a_decode_pool_that_was_too_slow_is_not_tried_beside_more_prefill_workers() -> None:
    in_time = dict.fromkeys(range(1, 6), 1.0)
    tried = search(6, in_time, 0.0, lambda one: Seen(0.9, 1.0) if one.decode > 1 else Seen(0.1, 0.1))
    assert [split for split in tried if split.decode == 1] == [Fixed(1, 1)]


def test_those_near_the_best_and_the_best_of_each_size_are_found_among_all() -> None:
    found = {Fixed(1, 1): 0.2, Fixed(2, 1): 0.75, Fixed(2, 2): 0.9, Fixed(3, 1): 0.6}
    assert within_reach(found, 0.15) == [Fixed(2, 1), Fixed(2, 2)]
    assert best_of_each_size(found) == [Fixed(1, 1), Fixed(2, 1), Fixed(2, 2)]


def test_first_tokens_in_time_are_those_of_the_simulation() -> None:
    arrivals = Day(600.0, "recorded", 6.0, 2.0).arrivals(TRACES)
    result = run(fixed(2, 6), arrivals, 600.0, 16, seed=1)
    late = round(result.late_first * len(arrivals))
    unended = round(result.unended * len(arrivals))
    in_time = first_in_time(arrivals, 2, Rates(timing()))
    assert len(arrivals) - late - unended <= in_time <= len(arrivals) - late


@pytest.mark.parametrize("candidate", scalers(8), ids=lambda one: one.name)
def test_no_scaler_exceeds_the_gpus_or_loses_a_request(candidate: Candidate) -> None:
    arrivals = [one for one in Day(600.0, "recorded", 3.0, 1.0).arrivals(TRACES) if one.at_s < 500]
    result = run(candidate, arrivals, 600.0, 8, seed=1)
    assert result.unended == 0
    assert result.gpu_hours <= 8 * 600 / 3600 + 1e-6
    assert all(sample.prefill >= 1 and sample.decode >= 1 for sample in result.samples)


def test_a_report_is_read_as_it_was_written_and_told_beside_the_best_split_of_each_seed(tmp_path: Path) -> None:
    day = Day(3600.0, "recorded", 7.0, 30.0)
    report = Report(Settings(16, day, 2, 0.1))
    for seed, (one, other) in ((1, (100.0, 90.0)), (2, (80.0, 100.0))):
        report.results += [_result("static 6+4", one, seed), _result("static 7+4", other, seed)]
        report.results += [_result(scaler.name, 110.0, seed) for scaler in scalers(16)]
    write(report, tmp_path / "study.json")
    again = read(tmp_path / "study.json")
    assert again == report
    table = markdown(again)
    assert "best static split of each seed (6+4, 7+4)" in table
    assert "| Segue, joint | 10.0 | 90.0% | 5.0% | 5.0% | 110 | 1.10 (1.10 to 1.10) |" in table
    assert "| 10 | 6+4 | 90.0% | 100 |" in table
