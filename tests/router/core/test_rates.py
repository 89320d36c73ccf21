"""What a worker's answers tell of its speed."""

from __future__ import annotations

import pytest

from segue.proto.sampling_pb2 import FINISH_REASON_ERROR, FINISH_REASON_LENGTH, FinishReason
from segue.proto.worker_pb2 import EngineUsage, Load, RequestOutput, Role, Submit, Transfer
from segue.router.rates.worker_rates import UNMEASURED, RateMeter

LENGTH = FINISH_REASON_LENGTH


def submit(name: str, tokens: int = 100) -> Submit:
    return Submit(request_id=name, input_token_ids=range(tokens))


def output(name: str, tokens: int = 1, finish: FinishReason = LENGTH) -> RequestOutput:
    return RequestOutput(request_id=name, token_ids=range(tokens), finish_reason=finish)


def test_time_in_the_queue_is_not_time_at_work() -> None:
    meter = RateMeter(Role.ROLE_PREFILL)
    for name in "abc":
        meter.sent(submit(name), now_s=10.0)
    for count, name in enumerate("abc", start=1):
        meter.answered([output(name)], now_s=10.0 + 0.1 * count)
    assert meter.rates.prefill_tokens_per_s == pytest.approx(1_000)


def test_idle_time_is_not_time_at_work() -> None:
    meter = RateMeter(Role.ROLE_PREFILL)
    for start in (0.0, 100.0):
        meter.sent(submit("a"), now_s=start)
        meter.answered([output("a")], now_s=start + 0.1)
    assert meter.rates.prefill_tokens_per_s == pytest.approx(1_000)


def test_prompts_computed_in_one_step_count_together() -> None:
    meter = RateMeter(Role.ROLE_PREFILL)
    for name in "abcd":
        meter.sent(submit(name), now_s=0.0)
    meter.answered([output(name) for name in "abcd"], now_s=0.2)
    assert meter.rates.prefill_tokens_per_s == pytest.approx(2_000)


def test_prefill_steps_tell_the_rate_whosever_prompts_they_compute() -> None:
    meter = RateMeter(Role.ROLE_PREFILL)
    for steps in (1, 2, 2):  # The last one is told twice.
        meter.stepped(Load(steps=steps, step_s=0.1, step_prompt_tokens=200 * steps))
    meter.stepped(Load(steps=3, step_s=5.0))  # Computed nothing.
    assert meter.rates.step_prompt_tokens_per_s == pytest.approx(600 / 0.2, rel=0.05)
    assert meter.rates.prefill_tokens_per_s == 0


def test_decode_is_measured_from_submit_to_finish() -> None:
    meter = RateMeter(Role.ROLE_DECODE)
    meter.sent(submit("a"), now_s=1.0)
    meter.answered([output("a", tokens=1, finish=FinishReason.FINISH_REASON_UNSPECIFIED)], now_s=2.0)
    assert meter.rates == UNMEASURED
    meter.answered([output("a", tokens=4)], now_s=4.0)
    assert (meter.rates.decode_s, meter.rates.decode_tokens) == (3.0, 5.0)


def test_failures_and_aborts_measure_nothing_and_leave_nothing() -> None:
    meter = RateMeter(Role.ROLE_DECODE)
    meter.sent(submit("a"), now_s=0.0)
    meter.sent(submit("b"), now_s=0.0)
    meter.aborted("a")
    meter.answered([output("b", finish=FINISH_REASON_ERROR), output("a"), output("unknown")], now_s=0.001)
    assert meter.rates == UNMEASURED
    assert not meter._sent


def test_one_stall_is_soon_forgotten_and_a_slower_worker_soon_believed() -> None:
    meter, now_s = RateMeter(Role.ROLE_PREFILL), 0.0

    def run(seconds: float, times: int) -> float:
        nonlocal now_s
        for _ in range(times):
            meter.sent(submit("a"), now_s)
            now_s += seconds
            meter.answered([output("a")], now_s)
        return meter.rates.prefill_tokens_per_s

    assert run(0.1, times=50) == pytest.approx(1_000)
    assert run(60.0, times=1) > 800
    assert run(0.1, times=50) > 950
    assert run(1.0, times=30) < 150


def done(name: str, computed: int, **fields: object) -> RequestOutput:
    usage = EngineUsage(computed_tokens=computed)
    return RequestOutput(request_id=name, token_ids=[1], finish_reason=LENGTH, usage=usage, **fields)  # type: ignore[arg-type]


def test_what_was_cached_was_not_computed() -> None:
    meter = RateMeter(Role.ROLE_PREFILL)
    meter.sent(submit("a", 1000), now_s=0.0)
    meter.answered([done("a", computed=100)], now_s=0.1)
    assert meter.rates.prefill_tokens_per_s == pytest.approx(1_000)


def test_decode_tells_prompts_it_computed_from_those_it_was_handed() -> None:
    meter = RateMeter(Role.ROLE_DECODE)
    meter.sent(submit("local", 500), now_s=0.0)
    meter.answered([output("local", finish=FinishReason.FINISH_REASON_UNSPECIFIED)], now_s=0.5)
    meter.answered([done("local", computed=500)], now_s=9.0)
    handed = submit("handed", 500)
    handed.ticket.ticket_id = "t"
    meter.sent(handed, now_s=10.0)
    meter.answered([output("handed", finish=FinishReason.FINISH_REASON_UNSPECIFIED)], now_s=10.3)
    meter.answered([done("handed", computed=1, transfer=Transfer(bytes=1000, seconds=0.2))], now_s=19.0)
    assert meter.rates.prefill(500) == pytest.approx(0.5)
    assert meter.rates.prefill.samples == 1
    assert meter.rates.join_s == pytest.approx(0.1)


def test_steps_are_measured_once_and_those_with_prompts_not_at_all() -> None:
    meter = RateMeter(Role.ROLE_DECODE)
    for steps, requests in enumerate([1, 2, 4, 8, 16, 1, 8], start=1):
        load = Load(steps=steps, step_s=0.01 + 0.001 * requests, step_requests=requests)
        meter.stepped(load)
        meter.stepped(load)
    meter.stepped(Load(steps=99, step_s=3.0, step_requests=2, step_prompt_tokens=4000))
    assert meter.rates.step.samples == 7
    assert meter.rates.step(10) == pytest.approx(0.02)


def test_a_worker_is_busy_since_it_began_with_what_it_has() -> None:
    meter = RateMeter(Role.ROLE_PREFILL)
    assert meter.busy_since_s == 0.0
    meter.sent(submit("a"), now_s=1.0)
    meter.sent(submit("b"), now_s=2.0)
    assert meter.busy_since_s == 1.0
    meter.answered([output("a")], now_s=5.0)
    assert meter.busy_since_s == 5.0
    meter.answered([output("b")], now_s=6.0)
    assert meter.busy_since_s == 0.0
