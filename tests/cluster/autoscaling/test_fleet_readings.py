"""What the routers' Fleet states come to: several routers, workers that left, queues, paces."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.cluster.autoscaling.fleet_readings import Look, fleet_readings, itl_target_s
from segue.cluster.scaling.readings import Cluster
from segue.proto.fleet_pb2 import FleetClass, FleetRates, FleetState, FleetWorker, StepTime
from segue.proto.worker_pb2 import (
    WORKER_STATE_DRAINING,
    WORKER_STATE_LOADING,
    WORKER_STATE_READY,
    EngineFacts,
    Load,
    Role,
)

NOW_S = 100.0


def prefill(name: str = "p0", assigned: int = 0, **other: Any) -> FleetWorker:
    figures: dict[str, Any] = {"state": WORKER_STATE_READY, "step_prompt_tokens_per_s": 1000.0, "ready_for_s": 40.0}
    figures |= {"assigned_prefill_tokens": assigned, "assigned_requests": int(assigned > 0), "epoch": "e"} | other
    return FleetWorker(worker_id=name, role=Role.ROLE_PREFILL, **figures)


def decode(name: str = "d0", running: int = 0, waiting: int = 0, free: int = 100, **other: Any) -> FleetWorker:
    figures: dict[str, Any] = {"state": WORKER_STATE_READY, "epoch": "e", "ready_for_s": 40.0}
    figures |= {"facts": EngineFacts(kv_blocks=100, max_running_requests=64)} | other
    load = Load(running_requests=running, waiting_requests=waiting, free_blocks=free)
    return FleetWorker(worker_id=name, role=Role.ROLE_DECODE, load=load, **figures)


def state(*workers: FleetWorker, router: str = "r0", **other: Any) -> FleetState:
    return FleetState(router_id=router, workers=workers, window_s=10.0, **other)


def seen(*states: FleetState) -> Cluster:
    cluster = fleet_readings([Look(one, NOW_S) for one in states], NOW_S)
    assert cluster is not None
    return cluster


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=5))
def test_routers_add_up_what_they_sent_and_hold_and_share_what_workers_say(parts: list[tuple[int, int, int]]) -> None:
    states = [
        state(
            prefill(assigned=assigned + 1),
            decode(running=7, free=30),
            router=f"r{number}",
            queued_prompt_tokens=10 * queued,
            queued_requests=queued,
            rates=FleetRates(arriving_prompt_tokens_per_s=arriving, arriving_requests_per_s=1, mean_output_tokens=5),
        )
        for number, (assigned, queued, arriving) in enumerate(parts)
    ]
    cluster = seen(*states)
    assert len(cluster.workers) == 2
    assert cluster.of("prefill")[0].backlog_tokens == sum(assigned + 1 for assigned, _, _ in parts)
    assert cluster.of("decode")[0].kv_use == pytest.approx(0.7)
    assert cluster.queued_tokens == sum(10 * queued for _, queued, _ in parts)
    assert cluster.arriving_tokens_per_s == pytest.approx(sum(arriving for _, _, arriving in parts))
    assert cluster.arriving_output_tokens_per_s == pytest.approx(5 * len(parts))


def test_what_answers_will_want_follows_the_mix_of_classes_that_arrives() -> None:
    chat = FleetRates(arriving_requests_per_s=2, mean_output_tokens=300)
    completions = FleetRates(arriving_requests_per_s=50, mean_output_tokens=20)
    gone = FleetRates(arriving_requests_per_s=0, mean_output_tokens=9000)
    classes = [FleetClass(rates=rates) for rates in (chat, completions, gone)]
    overall = FleetRates(arriving_requests_per_s=52, mean_output_tokens=280)
    assert seen(state(rates=overall, classes=classes)).arriving_output_tokens_per_s == 2 * 300 + 50 * 20


def test_the_latest_look_of_a_router_counts_and_a_worker_it_no_longer_names_has_left() -> None:
    before, after = state(prefill("p0"), prefill("p1", assigned=900)), state(prefill("p0"))
    cluster = fleet_readings([Look(after, NOW_S), Look(before, NOW_S - 1)], NOW_S)
    assert cluster is not None
    assert [worker.worker_id for worker in cluster.workers] == ["p0"]


def test_silence_is_forgotten_router_by_router_and_nothing_heard_is_nothing() -> None:
    assert fleet_readings([], NOW_S) is None
    assert fleet_readings([Look(state(prefill()), NOW_S - 16)], NOW_S) is None
    cluster = fleet_readings(
        [Look(state(prefill("p0"), router="old"), NOW_S - 16), Look(state(prefill("p1", heard_s_ago=20.0)), NOW_S)],
        NOW_S,
    )
    assert cluster is not None
    assert cluster.workers == ()


def test_a_worker_in_its_second_life_has_none_of_its_first_ones_backlog_or_warmth() -> None:
    second = prefill(assigned=10, epoch="e2", ready_for_s=1.0)
    cluster = seen(state(prefill(assigned=5000, heard_s_ago=3.0)), state(second, router="r1"))
    (worker,) = cluster.workers
    assert (worker.backlog_tokens, worker.ready_for_s) == (10, 1.0)


def test_a_router_that_has_just_started_does_not_make_its_workers_cold() -> None:
    (worker,) = seen(state(prefill(ready_for_s=90.0)), state(prefill(ready_for_s=2.0), router="r1")).workers
    assert worker.ready_for_s == 90.0


def test_phases() -> None:
    workers = [prefill(f"p{number}", state=phase) for number, phase in enumerate((WORKER_STATE_LOADING, 0))]
    workers.append(prefill("p2", state=WORKER_STATE_DRAINING))
    assert [worker.phase for worker in seen(state(*workers)).workers] == ["starting", "starting", "draining"]


def test_what_is_cached_does_not_arrive_and_does_not_wait() -> None:
    rates = FleetRates(prompt_tokens_per_s=100, cached_prompt_tokens_per_s=75, arriving_prompt_tokens_per_s=400)
    cluster = seen(state(prefill(assigned=1), rates=rates, queued_prompt_tokens=1000, queued_requests=2))
    assert (cluster.arriving_tokens_per_s, cluster.queued_tokens) == (100.0, 250.0)


def test_what_waits_while_a_prefill_worker_is_idle_waits_for_decode() -> None:
    full = [decode(f"d{number}", running=8, free=20) for number in range(2)]
    cluster = seen(state(prefill(), *full, queued_requests=10, queued_prompt_tokens=9000))
    assert cluster.queued_tokens == 0
    assert [worker.running for worker in cluster.of("decode")] == [13.0, 13.0]
    assert cluster.of("decode")[0].kv_use == pytest.approx(0.8 + 5 * 0.1)


def test_the_batch_is_the_one_at_which_steps_take_as_long_as_the_promise_allows() -> None:
    classes = [
        FleetClass(name="chat", promised_tokens_per_s=25, running_requests=1),
        FleetClass(name="documents", promised_tokens_per_s=100),
    ]
    assert itl_target_s([state(classes=classes)]) == pytest.approx(0.04), "nobody asks for documents"
    step = StepTime(fixed_s=0.01, per_request_s=0.001, samples=20)
    (worker,) = seen(state(decode(running=2, free=98, step=step), classes=classes)).workers
    assert worker.running_at_slo == pytest.approx(30)
    assert worker.tokens_per_s == pytest.approx(30 / 0.04)
    (full,) = seen(state(decode(running=2, free=80, step=step), classes=classes)).workers
    assert full.running_at_slo == pytest.approx(30)
    assert full.tokens_per_s == pytest.approx(10 / 0.02), "no more than its KV cache holds"


@pytest.mark.parametrize(
    "step", [StepTime(per_request_s=0.01, samples=50), StepTime(fixed_s=5.0, per_request_s=0.01, samples=19)]
)
def test_steps_of_one_batch_size_alone_and_of_a_cold_engine_tell_nothing(step: StepTime) -> None:
    classes = [FleetClass(name="chat", promised_tokens_per_s=30, running_requests=1)]
    (worker,) = seen(state(decode(running=1, step=step), classes=classes)).workers
    assert (worker.running_at_slo, worker.tokens_per_s) == (64, 0)


def test_a_pace_that_one_request_alone_does_not_keep_asks_for_no_workers() -> None:
    classes = [FleetClass(name="chat", promised_tokens_per_s=30, running_requests=9)]
    missed = FleetRates(requests_per_s=3, itl_attainment=0.0)
    slow = decode(running=9, step=StepTime(fixed_s=0.06, per_request_s=0.001, samples=20))
    cluster = seen(state(slow, classes=classes, rates=missed))
    assert cluster.itl_attainment == 1.0
    assert cluster.workers[0].running_at_slo == 64


def test_attainment_counts_by_requests() -> None:
    missed = FleetRates(requests_per_s=3, ttft_attainment=0.0, itl_attainment=0.5)
    cluster = seen(state(prefill(), rates=missed), state(prefill(), router="r1", rates=FleetRates(requests_per_s=1)))
    assert (cluster.ttft_attainment, cluster.itl_attainment) == (0.25, 0.625)
