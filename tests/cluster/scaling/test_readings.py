from __future__ import annotations

from dataclasses import replace

from segue.cluster.scaling.readings import RouterReading, WorkerReading, merge

WORKER = WorkerReading("p0", "e1", "prefill", "ready", read_s=10.0, backlog_tokens=100.0)
ROUTER = RouterReading("r0", 10.0, (WORKER,), queued_tokens=50.0, ended_requests=10.0)


def test_what_two_routers_say_of_one_worker_counts_once_and_their_queues_add_up() -> None:
    other = replace(ROUTER, router_id="r1", workers=(replace(WORKER, read_s=9.0, backlog_tokens=70.0),))
    seen = merge([ROUTER, other], now_s=10.0, stale_after_s=5.0)
    assert seen is not None
    assert seen.workers == (WORKER,)
    assert seen.queued_tokens == 100.0


def test_a_worker_that_left_is_not_counted_any_more() -> None:
    seen = merge([ROUTER, replace(ROUTER, read_s=11.0, workers=())], now_s=11.0, stale_after_s=5.0)
    assert seen is not None
    assert seen.workers == ()


def test_a_router_that_is_silent_takes_its_readings_with_it() -> None:
    assert merge([ROUTER], now_s=15.1, stale_after_s=5.0) is None


def test_a_worker_in_its_second_life_replaces_its_first() -> None:
    second = replace(WORKER, epoch="e2", read_s=12.0, backlog_tokens=0.0)
    late = replace(ROUTER, router_id="r1", read_s=12.0, workers=(second,))
    seen = merge([late, ROUTER], now_s=12.0, stale_after_s=5.0)
    assert seen is not None
    assert seen.workers == (second,)


def test_attainment_is_of_requests_not_of_routers() -> None:
    idle = replace(ROUTER, router_id="r1", ended_requests=0.0, ttft_attainment=0.0)
    busy = replace(ROUTER, router_id="r2", ended_requests=30.0, ttft_attainment=0.8)
    seen = merge([ROUTER, idle, busy], now_s=10.0, stale_after_s=5.0)
    assert seen is not None
    assert round(seen.ttft_attainment, 6) == 0.85
