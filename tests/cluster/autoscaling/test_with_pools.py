"""Routers' picture and pools' put together, and what of a decision can be done now."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.cluster.autoscaling.with_pools import orders, told, with_pools
from segue.cluster.pools import Phase, PoolName, PoolsView, PoolView, PoolWorker
from segue.cluster.pools_service import message_of, view_of
from segue.cluster.scaling.joint import Budget
from segue.cluster.scaling.policy import Decision, PoolDecision
from segue.cluster.scaling.readings import Cluster, WorkerReading

NOW_S = 10.0
POOLS: tuple[PoolName, ...] = ("prefill", "decode")
phases: st.SearchStrategy[Phase] = st.sampled_from(["running", "leaving", "restarting"])
members = st.lists(phases, min_size=1, max_size=6)


def pools(prefill: list[Phase], decode: list[Phase]) -> PoolsView:
    return PoolsView(
        "local",
        tuple(
            PoolView(
                name,
                sum(phase != "leaving" for phase in each),
                tuple(PoolWorker(f"{name}-{number}", phase, "core 0") for number, phase in enumerate(each)),
            )
            for name, each in zip(POOLS, (prefill, decode), strict=True)
        ),
    )


def heard(*workers: WorkerReading) -> Cluster:
    return Cluster(workers, 0.0, 0.0, 0.0, 1.0, 1.0)


def decided(view: PoolsView, prefill: int, decode: int) -> Decision:
    wanted = {"prefill": prefill, "decode": decode}
    one, other = (PoolDecision(pool.name, pool.desired, wanted[pool.name], "why") for pool in view.pools)
    return Decision(one, other)


@given(members, members, st.sets(st.sampled_from([f"{pool}-{number}" for pool in POOLS for number in range(8)])))
def test_the_policy_sees_the_pools_workers_and_no_others(
    prefill: list[Phase], decode: list[Phase], known: set[str]
) -> None:
    view = pools(prefill, decode)
    routers = heard(
        *(
            WorkerReading(name, "e", "prefill" if name.startswith("p") else "decode", "ready", NOW_S)
            for name in sorted(known)
        )
    )
    seen = with_pools(routers, view, NOW_S)
    for pool in view.pools:
        readings = {reading.worker_id: reading for reading in seen.of(pool.name)}
        assert set(readings) == {worker.worker_id for worker in pool.workers}
        assert sum(reading.phase != "draining" for reading in readings.values()) == pool.desired
        for worker in pool.workers:
            ready = worker.phase == "running" and worker.worker_id in known
            assert (readings[worker.worker_id].phase == "ready") == ready


@given(members, members, st.integers(1, 9), st.integers(1, 9), st.integers(2, 20))
def test_a_budget_holds_for_those_too_that_still_leave(
    prefill: list[Phase], decode: list[Phase], more: int, others: int, gpus: int
) -> None:
    view = pools(prefill, decode)
    decision = decided(view, more, others)
    given = orders(decision, view, Budget(gpus))
    taken = len(prefill) + len(decode)
    grown = sum(max(0, count - view.of(pool).desired) for pool, count in given.scale.items())
    assert taken + grown <= max(gpus, taken)
    for one in (decision.prefill, decision.decode):
        now = given.scale.get(one.pool, one.present)
        assert min(one.present, one.workers) <= now <= max(one.present, one.workers)
        if one.change < 0:
            assert now == one.workers, "what makes room waits for nothing"
        elif now < one.workers:
            assert one.pool in given.held
            assert taken + grown == max(gpus, taken)


def test_without_a_budget_everything_is_done_at_once() -> None:
    view = pools(["running"], ["running"] * 3)
    assert orders(decided(view, 2, 2), view, None).scale == {"prefill": 2, "decode": 2}
    assert orders(decided(view, 1, 3), view, None).scale == {}


def test_what_was_decided_survives_the_wire() -> None:
    view = pools(["running"], ["running"])
    shown = told(view, "advise", decided(view, 2, 1), "no room")
    assert view_of(message_of(shown)) == shown
    assert [(pool.recommended, pool.reason) for pool in shown.pools] == [(2, "why; no room"), (1, "why")]
    assert view_of(message_of(told(view, "act", None))).pools == view.pools


@pytest.mark.parametrize("mode", ["off", "advise", "act"])
def test_the_mode_is_told(mode: str) -> None:
    view = pools(["running"], ["running"])
    assert told(view, mode, None).scaling_mode == mode  # type: ignore[arg-type]
