from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

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


STALE_S = 5.0
readings = st.lists(
    st.tuples(
        st.integers(0, 2),  # Which router.
        st.integers(0, 20),  # When it said it.
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 20)), max_size=4, unique_by=lambda one: one[0]),
        st.integers(0, 1000),  # What waits in its queue.
    ),
    max_size=12,
)


@given(readings, st.integers(0, 30))
def test_only_what_a_routers_latest_word_names_lately_is_counted(
    said: Sequence[tuple[int, int, Sequence[tuple[int, int]], int]], now_s: int
) -> None:
    told = [
        RouterReading(
            f"r{router}",
            read_s=at_s,
            workers=[replace(WORKER, worker_id=f"p{worker}", read_s=at_s - age_s) for worker, age_s in workers],
            queued_tokens=queued,
        )
        for router, at_s, workers, queued in said
        if at_s <= now_s
    ]
    seen = merge(told, now_s, STALE_S)
    fresh = [one for one in told if now_s - one.read_s <= STALE_S]
    if not fresh:
        assert seen is None
        return
    assert seen is not None
    last = {
        name: max(one.read_s for one in fresh if one.router_id == name) for name in {one.router_id for one in fresh}
    }
    latest = [next(one for one in fresh if (one.router_id, one.read_s) == (name, at_s)) for name, at_s in last.items()]
    heard = [worker for one in latest for worker in one.workers if now_s - worker.read_s <= STALE_S]
    # Each that is named counts once, by its newest figures; nothing of the others is left.
    assert [worker.worker_id for worker in seen.workers] == sorted({worker.worker_id for worker in heard})
    for worker in seen.workers:
        assert worker.read_s == max(one.read_s for one in heard if one.worker_id == worker.worker_id)
    assert seen.queued_tokens == sum(one.queued_tokens for one in latest)
