"""The same seed gives the same requests, at the right times, of the right lengths."""

from __future__ import annotations

import io
import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.loadtest.workload.arrivals import constant, poisson
from segue.loadtest.workload.class_mix import ClassMix
from segue.loadtest.workload.lengths import Lengths
from segue.loadtest.workload.requests import Replay, SharedPrefix, Synthetic, replay, synthetic
from segue.loadtest.workload.traces import TraceEntry, TraceError, read_trace


@given(rate=st.floats(0.01, 1000), count=st.integers(1, 200))
def test_a_constant_rate_spaces_requests_evenly(rate: float, count: int) -> None:
    times = list(itertools.islice(constant(rate), count))

    assert times[0] == 0
    assert all(math.isclose(time, number / rate) for number, time in enumerate(times))


@given(rate=st.floats(0.1, 1000), seed=st.integers(0, 1000))
def test_poisson_arrivals_never_fall_and_come_again_with_their_seed(rate: float, seed: int) -> None:
    times = list(itertools.islice(poisson(rate, seed), 50))

    assert times == sorted(times)
    assert times == list(itertools.islice(poisson(rate, seed), 50))


def test_poisson_arrivals_keep_their_rate_and_spread() -> None:
    times = list(itertools.islice(poisson(20.0, 1), 20_000))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))

    assert math.isclose(mean, 1 / 20, rel_tol=0.03)
    assert math.isclose(deviation, mean, rel_tol=0.05)  # As of an exponential distribution.


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan])
def test_no_rate_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        next(constant(rate))


@given(low=st.integers(1, 500), more=st.integers(0, 500), seed=st.integers())
def test_uniform_lengths_stay_within_their_bounds(low: int, more: int, seed: int) -> None:
    lengths = Lengths.parse(f"{low}-{low + more}")

    assert all(low <= lengths.draw(random.Random(seed)) <= low + more for _ in range(5))


@pytest.mark.parametrize(
    ("text", "centre"), [("300", 300), ("normal:300,50", 300), ("lognormal:300,0.3", 300 * math.exp(0.3**2 / 2))]
)
def test_lengths_have_the_mean_that_was_asked_for(text: str, centre: float) -> None:
    draw, lengths = random.Random(1), Lengths.parse(text)

    drawn = [lengths.draw(draw) for _ in range(5000)]

    assert min(drawn) >= 1
    assert math.isclose(sum(drawn) / len(drawn), centre, rel_tol=0.02)


@pytest.mark.parametrize("text", ["", "many", "0", "9-3", "normal:5", "zipf:1,2", "nan", "normal:inf,1", "-5"])
def test_lengths_that_cant_be_read_say_how_they_are_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"512|from high to low"):
        Lengths.parse(text)


def test_classes_come_in_their_shares() -> None:
    mix, draw = ClassMix.parse("chat=3,batch"), random.Random(1)

    drawn = [mix.draw(draw) for _ in range(4000)]

    assert math.isclose(drawn.count("chat") / len(drawn), 0.75, rel_tol=0.05)
    assert set(drawn) == {"chat", "batch"}


@pytest.mark.parametrize("text", ["chat=0", "chat=-1", "=3", "chat=much"])
def test_a_class_mix_that_cant_be_read_says_how_it_is_written(text: str) -> None:
    with pytest.raises(ValueError, match="chat=8,batch=2"):
        ClassMix.parse(text)


@given(share=st.floats(0, 1), seed=st.integers(0, 99))
def test_a_request_is_the_same_however_many_follow(share: float, seed: int) -> None:
    what = Synthetic(Lengths.parse("5-50"), Lengths.parse("9"), SharedPrefix(20, 3, share), ClassMix.parse("a,b"))

    few = list(synthetic(what, itertools.islice(constant(1.0), 5), seed))
    many = list(synthetic(what, itertools.islice(constant(1.0), 20), seed))

    assert many[:5] == few


def test_as_many_requests_share_a_prefix_as_were_to() -> None:
    what = Synthetic(Lengths.parse("10"), Lengths.parse("1"), SharedPrefix(30, 4, 0.25))

    shapes = list(synthetic(what, itertools.islice(constant(1.0), 2000), 0))

    sharing = [shape for shape in shapes if shape.prompt_tokens == 40]
    assert math.isclose(len(sharing) / 2000, 0.25, rel_tol=0.1)
    assert {shape.segments[0].name for shape in sharing} == {0, 1, 2, 3}
    assert {shape.prompt_tokens for shape in shapes if shape not in sharing} == {10}


MOONCAKE = """
{"timestamp": 27482, "input_length": 600, "output_length": 32, "hash_ids": [0, 7]}
{"timestamp": 27000, "input_length": 512, "output_length": 1, "hash_ids": [0]}
"""
AZURE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,4808,10
2023-11-16 18:17:05.2292700,110,27
"""


def test_a_mooncake_trace_is_read_in_order_of_time() -> None:
    assert list(read_trace(io.StringIO(MOONCAKE.lstrip()))) == [
        TraceEntry(0.0, 512, 1, (0,)),
        TraceEntry(27.482 - 27.0, 600, 32, (0, 7)),
    ]


def test_an_azure_trace_is_read() -> None:
    first, second = read_trace(io.StringIO(AZURE))

    assert first == TraceEntry(0.0, 4808, 10)
    assert (second.input_tokens, second.output_tokens) == (110, 27)
    assert second.at_s == pytest.approx(1.24931)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("no trace", "line 1"),
        ('{"timestamp": 1, "input_length": 1}', "output_length"),
        ('{"timestamp": 1, "input_length": 600, "output_length": 1, "hash_ids": [1]}', "1 hash_ids for 600 tokens"),
        ("TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n", "line 2"),
        ("[1]", "line 1"),
    ],
)
def test_a_trace_that_cant_be_read_says_where(text: str, complaint: str) -> None:
    with pytest.raises(TraceError, match=complaint):
        list(read_trace(io.StringIO(text)))


def test_a_replay_scales_lengths_and_pauses() -> None:
    entries = [TraceEntry(0.0, 1024, 64, (0, 1)), TraceEntry(10.0, 1024 + 256, 640, (0, 1, 2))]

    first, second = replay(entries, Replay(length_scale=32, time_scale=0.5, max_output_tokens=10), 0)

    assert (first.prompt_tokens, second.prompt_tokens) == (32, 40)
    assert (first.at_s, second.at_s) == (0.0, 5.0)
    assert (first.output_tokens, second.output_tokens) == (2, 10)


def test_a_replay_cuts_prompts_that_the_model_could_not_take() -> None:
    [shape] = replay([TraceEntry(0.0, 2000, 1, (0, 1, 2, 3))], Replay(max_prompt_tokens=700), 0)

    assert shape.prompt_tokens == 700
    assert [segment.tokens for segment in shape.segments] == [512, 188]


def test_a_scale_that_would_blur_blocks_is_refused() -> None:
    with pytest.raises(ValueError, match="scale by 128 at most"):
        list(replay([TraceEntry(0.0, 512, 1, (0,))], Replay(length_scale=256), 0))
