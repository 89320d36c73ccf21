"""The last minute: rates are differences, and what is older is forgotten."""

from __future__ import annotations

import pytest

from segue.base.metrics import Exposition
from segue.router.lifecycle.records import FirstToken
from segue.router.metrics.observer import RouterMetrics
from segue.router.metrics.window import Window
from segue.router.queueing.slo import DEFAULT_CLASSES
from tests.observability.test_router_metrics import record


@pytest.fixture
def metrics() -> RouterMetrics:
    return RouterMetrics(Exposition(), DEFAULT_CLASSES)


def test_rates_are_of_the_window_alone(metrics: RouterMetrics) -> None:
    metrics.on_finished(record())  # Before the window.
    window = Window(metrics.look, now_s=100.0, length_s=10.0)
    for _ in range(4):
        metrics.on_finished(record(ttft_s=0.1))
        metrics.on_first_token("chat", FirstToken("prefill", 0.1, 0.0, 0.1))
        metrics.on_tokens("chat", "prefill", [0.01] * 9)
    metrics.on_refused("alice", "chat", "overloaded")
    rates = window.rates(now_s=102.0)
    assert rates["chat"].requests_per_s == pytest.approx(2.0)
    assert rates["chat"].refused_per_s == pytest.approx(0.5)
    assert rates["chat"].output_tokens_per_s == pytest.approx(20.0)
    assert rates["chat"].prompt_tokens_per_s == pytest.approx(200.0)
    assert rates["chat"].cached_prompt_tokens_per_s == pytest.approx(128.0)
    assert rates["chat"].slo_attainment == 1.0
    assert rates["chat"].itl_s.count == 36
    assert 0.0075 < rates["chat"].itl_s.p99 <= 0.01
    assert not rates["batch"].HasField("slo_attainment")
    assert rates[""].requests_per_s == rates["chat"].requests_per_s


def test_what_is_older_than_the_window_is_forgotten(metrics: RouterMetrics) -> None:
    window = Window(metrics.look, now_s=0.0, length_s=10.0)
    metrics.on_finished(record("service_unavailable"))
    for second in range(1, 31):
        window.tick(float(second))
    assert window.seconds(30.0) == 10.0
    assert window.rates(30.0)[""].requests_per_s == 0
    metrics.on_finished(record("internal_error"))
    metrics.on_finished(record("cancelled"))
    assert window.rates(30.0)["chat"].requests_per_s == pytest.approx(0.2)
    assert window.rates(30.0)["chat"].failed_per_s == pytest.approx(0.1)


def test_what_is_refused_for_want_of_room_arrives_too_and_what_is_wrong_does_not(metrics: RouterMetrics) -> None:
    window = Window(metrics.look, now_s=0.0)
    for tokens in (100, 300):
        metrics.on_accepted("chat", tokens)
    for code in ("overloaded", "overloaded", "invalid_request"):
        metrics.on_refused("alice", "chat", code)
    rates = window.rates(now_s=2.0)[""]
    assert rates.arriving_requests_per_s == pytest.approx(2.0)
    assert rates.arriving_prompt_tokens_per_s == pytest.approx(2.0 * 200)


def test_a_shorter_window_forgets_sooner_and_lengths_are_remembered(metrics: RouterMetrics) -> None:
    window = Window(metrics.look, now_s=0.0)
    metrics.on_accepted("chat", 100)
    metrics.on_finished(record(ttft_s=0.1))
    for second in range(1, 21):
        window.tick(float(second))
    assert window.seconds(20.0, 5.0) == 5.0
    metrics.on_refused("alice", "chat", "overloaded")
    lately, ever = window.rates(20.0, 5.0)[""], window.rates(20.0)[""]
    assert lately.requests_per_s == 0
    assert ever.requests_per_s == pytest.approx(1 / 20)
    assert lately.arriving_prompt_tokens_per_s == pytest.approx(100 / 5)
    assert lately.mean_output_tokens == 11


def test_each_half_of_a_promise_is_judged_by_itself(metrics: RouterMetrics) -> None:
    window = Window(metrics.look, now_s=0.0)
    metrics.on_finished(record(ttft_s=0.1, itl_mean_s=0.5))  # In time, and too slow.
    metrics.on_finished(record(ttft_s=9.0, itl_mean_s=0.01))
    metrics.on_finished(record("internal_error"))  # Says nothing of time.
    metrics.on_finished(record("deadline_exceeded"))  # Without a first token.
    rates = window.rates(10.0)["chat"]
    assert rates.ttft_attainment == pytest.approx(1 / 3)
    assert rates.itl_attainment == pytest.approx(1 / 2)
