"""What prompts computed elsewhere cost decode's steps: seen where there is something, and nothing else is."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.router.rates.crowding import CrowdingMeter

KIND = "cpu"


def measured(
    longer: float, seconds: float = 40.0, noise: float = 0.1, seed: int = 1, prefills: int = 1, step_s: float = 0.01
) -> tuple[CrowdingMeter, float]:
    """Decode steps ``longer`` by this part of themselves for each of some prefill workers; of each second, that all
    compute 0.4, told when they are done."""
    meter, draw, now_s = CrowdingMeter(), random.Random(seed), 100.0
    end_s, second = now_s + seconds, 0
    while now_s < end_s:
        busy = (now_s - 100.0) % 1.0 < 0.4
        requests = draw.randint(1, 4)
        took_s = step_s * (1 + 0.05 * requests) * draw.lognormvariate(0, noise) * (1 + longer * prefills * busy)
        now_s += took_s
        meter.stepped("decode-0", KIND, requests, took_s, now_s)
        while now_s >= 100.4 + second:
            for number in range(prefills):
                meter.computed(f"prefill-{number}", 100.0 + second, 100.4 + second)
            second += 1
            meter.look(now_s)
    return meter, now_s


@pytest.mark.parametrize("prefills", [1, 2])
def test_what_workers_take_from_each_other_is_seen(prefills: int) -> None:
    meter, now_s = measured(0.3, prefills=prefills)
    assert meter.crowding(KIND, now_s) == pytest.approx(0.3, rel=0.25)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.0, 0.3))
def test_with_engines_apart_noise_is_hardly_ever_taken_for_it(seed: int, noise: float) -> None:
    meter, now_s = measured(0.0, noise=noise, seed=seed)
    assert meter.crowding(KIND, now_s) < 0.1


def test_a_few_slow_steps_say_nothing() -> None:
    meter, now_s = measured(0.5, seconds=2.0)
    assert meter.crowding(KIND, now_s) == 0.0


def test_a_prompt_that_is_not_done_yet_counts_from_when_it_was_sent() -> None:
    told, now_s = measured(0.0, noise=0.0)
    for number in range(300):
        told.stepped("decode-0", KIND, 2, 0.02, now_s + 0.02 * number)
        told.look(now_s + 0.02 * number, [now_s - 0.02])
    assert told.crowding(KIND, now_s + 6.0) > 0.1


def test_what_was_seen_long_ago_is_looked_at_anew() -> None:
    meter, now_s = measured(0.5)
    assert meter.crowding(KIND, now_s) > 0
    assert meter.crowding(KIND, now_s + 3600.0) == 0.0


def test_other_kinds_and_workers_that_are_gone_are_left_out() -> None:
    meter, now_s = measured(0.5)
    meter.forget("decode-0")
    meter.forget("prefill-0")
    assert meter.crowding("gpu", now_s) == 0.0
    assert meter.crowding(KIND, now_s) > 0  # Its kind goes on.


def kept(meter: CrowdingMeter) -> int:
    return len(meter._steps) + sum(len(times) for times in meter._computing.values())


@pytest.mark.parametrize("looks", [True, False])
def test_answers_of_one_token_leave_nothing_behind(looks: bool) -> None:
    meter = CrowdingMeter()
    for number in range(20_000):
        now_s = 0.02 * number
        meter.computed("prefill-0", now_s - 0.01, now_s)
        if looks and not number % 10:
            meter.look(now_s)
    assert kept(meter) <= 2_000  # Of half a minute.


def test_of_what_is_old_nothing_is_kept_and_nothing_is_learned() -> None:
    meter = CrowdingMeter()
    meter.computed("prefill-0", 0.0, 0.5)
    for number in range(10):
        meter.stepped("decode-0", KIND, 1, 0.01, 0.1 + 0.01 * number)
    meter.look(100.0)
    assert kept(meter) == 0
