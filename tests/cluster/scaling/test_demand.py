from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from segue.cluster.scaling.demand import Targets, decode_demand, prefill_demand, warm_rate
from segue.cluster.scaling.readings import Cluster, WorkerReading

TARGETS = Targets()


def prefill(name: str, backlog_tokens: float = 0.0, rate: float = 1000.0, ready_for_s: float = 100.0) -> WorkerReading:
    return WorkerReading(
        name, "e", "prefill", "ready", 0.0, ready_for_s, backlog_tokens=backlog_tokens, tokens_per_s=rate
    )


def decode(name: str, kv_use: float = 0.0, running: float = 0.0) -> WorkerReading:
    return WorkerReading(name, "e", "decode", "ready", 0.0, 100.0, kv_use=kv_use, running=running, running_at_slo=10)


def cluster(*workers: WorkerReading, queued: float = 0.0, arriving: float = 0.0, kept: float = 1.0) -> Cluster:
    return Cluster(workers, queued, arriving, 0.0, kept, kept)


def test_prefill_follows_the_backlog_of_queue_and_workers_together() -> None:
    seen = cluster(prefill("p0", 3000.0), prefill("p1", 1000.0), queued=2000.0)
    assert prefill_demand(seen, TARGETS).workers == 4  # 6 s of one worker's work, 1.5 s each.


def test_a_pool_that_keeps_up_is_not_taken_apart_for_its_short_queue() -> None:
    seen = cluster(prefill("p0"), prefill("p1"), prefill("p2"), arriving=2000.0)
    assert prefill_demand(seen, TARGETS).workers == 3


def test_a_cold_worker_s_first_rate_is_not_believed() -> None:
    warm, cold = prefill("p0", 1500.0), prefill("p1", 0.0, rate=10.0, ready_for_s=5.0)
    assert prefill_demand(cluster(warm, cold), TARGETS).workers == 1
    only_cold = prefill_demand(cluster(cold, queued=1e6), TARGETS)
    assert (only_cold.workers, only_cold.can_shrink) == (1, False)


def test_workers_that_start_are_counted_and_those_that_drain_are_not() -> None:
    starting = replace(prefill("p1"), phase="starting")
    missed = prefill_demand(cluster(prefill("p0", 1500.0), starting, kept=0.5), TARGETS)
    assert missed.workers == 3
    draining = replace(prefill("p2"), phase="draining")
    assert prefill_demand(cluster(prefill("p0", 1500.0), draining, kept=0.5), TARGETS).workers == 2


def test_decode_follows_the_fuller_of_cache_and_batch() -> None:
    seen = cluster(decode("d0", kv_use=0.9, running=2), decode("d1", kv_use=0.1, running=12))
    assert decode_demand(seen, TARGETS).workers == 3  # 0.9 and 1.2 over 0.8.


def test_a_missed_promise_makes_a_busy_pool_grow_and_no_pool_shrink() -> None:
    idle = decode_demand(cluster(decode("d0"), decode("d1"), kept=0.5), TARGETS)
    assert (idle.workers, idle.can_shrink) == (2, False)
    busy = decode_demand(cluster(decode("d0", 0.3), decode("d1", 0.3), kept=0.5), TARGETS)
    assert busy.workers == 3


@given(st.lists(st.floats(0, 1e5), min_size=1, max_size=6), st.floats(0, 1e5), st.floats(0, 1e5))
def test_more_backlog_never_asks_for_fewer(backlogs: list[float], queued: float, more: float) -> None:
    workers = [prefill(f"p{index}", tokens) for index, tokens in enumerate(backlogs)]
    less = prefill_demand(cluster(*workers, queued=queued), TARGETS).workers
    assert prefill_demand(cluster(*workers, queued=queued + more), TARGETS).workers >= less


workers = st.lists(
    st.builds(prefill, st.uuids().map(str), st.floats(0, 1e5), st.floats(1, 1e5), st.floats(30, 1e4)),
    min_size=1,
    max_size=4,
)
cold = st.lists(
    st.builds(prefill, st.uuids().map(str), st.just(0.0), st.floats(1e-3, 1e9), st.floats(0, 29.9)), max_size=4
)


@given(workers, cold, st.floats(0, 1e5))
def test_nothing_that_a_cold_worker_measures_moves_the_demand(
    warm: list[WorkerReading], cold: list[WorkerReading], queued: float
) -> None:
    seen = cluster(*warm, *cold, queued=queued)
    assert warm_rate(seen, "prefill", TARGETS) == warm_rate(cluster(*warm), "prefill", TARGETS)
    # They count as there, whatever they say of their rate.
    unmeasured = [replace(one, tokens_per_s=0.0) for one in cold]
    assert prefill_demand(seen, TARGETS) == prefill_demand(cluster(*warm, *unmeasured, queued=queued), TARGETS)
    only_cold = prefill_demand(cluster(*cold, queued=queued), TARGETS)
    assert (only_cold.workers, only_cold.can_shrink) == (len(cold), False), "nothing measured, nothing changed"
