"""The sums that pools are scaled by: the same whichever router adds them up."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.proto.worker_pb2 import Role, RouterBacklog
from segue.router.rates.worker_rates import UNMEASURED
from segue.router.scaling.pool_load import (
    Backlog,
    Queue,
    decode_use,
    need_known,
    own_backlog,
    prefill_backlog_s,
    with_others,
)
from segue.router.workers.fleet import FleetSnapshot
from tests.router.scaling.views import DRAINING, decode, prefill

prefill_workers = st.lists(st.builds(prefill, st.integers(0, 99), sent=st.integers(1, 9999)), max_size=5)
decode_workers = st.lists(
    st.builds(decode, st.integers(0, 99), running=st.integers(0, 30), free=st.integers(0, 100)), max_size=5
)
backlogs = st.builds(Backlog, st.integers(0, 10**6).map(float), st.integers(0, 100))


def fleet(*workers: object) -> FleetSnapshot:
    return FleetSnapshot(tuple(workers))  # type: ignore[arg-type]


@given(prefill_workers, st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1))
def test_more_that_waits_is_never_less_backlog(present: list[object], queued: int, more: int, cached: float) -> None:
    seen = fleet(*present)
    less, much = (own_backlog(seen, Queue(1, tokens, cached)) for tokens in (queued, queued + more))
    assert prefill_backlog_s(seen, much) >= prefill_backlog_s(seen, less) >= 0


def test_what_is_cached_does_not_wait() -> None:
    seen = fleet(prefill(0, sent=500))
    assert own_backlog(seen, Queue(3, 4000, cached_share=0.75)) == Backlog(1500.0)


def test_what_waits_while_a_prefill_worker_is_idle_waits_for_decode() -> None:
    queue = Queue(3, 4000)
    assert own_backlog(fleet(prefill(0, sent=500), prefill(1)), queue) == Backlog(500.0, 3)
    busy_for_others = fleet(prefill(0, sent=500), prefill(1, running=1))
    assert own_backlog(busy_for_others, queue) == Backlog(4500.0)
    broken = fleet(prefill(0, sent=500), replace(prefill(1), spared=True))
    assert own_backlog(broken, queue) == Backlog(4500.0)


def test_what_waits_while_no_prefill_worker_is_ready_waits_for_decode_too() -> None:
    assert own_backlog(fleet(decode(0)), Queue(3, 4000)) == Backlog(4000.0, 3)


@pytest.mark.parametrize("role", [Role.ROLE_PREFILL, Role.ROLE_DECODE])
def test_what_a_pool_needs_of_which_no_worker_is_ready_is_known_only_while_there_is_nothing_to_do(role: Role) -> None:
    ready, other = (prefill(0), decode(0)) if role == Role.ROLE_PREFILL else (decode(0), prefill(0))
    gone = replace(ready, state=DRAINING)
    for work in (Backlog(1.0), Backlog(0.0, 50)):
        assert not need_known(role, fleet(other), work)
        assert not need_known(role, fleet(gone, other), work)
        assert need_known(role, fleet(ready), work)
    busy_elsewhere = replace(other, load=decode(0, running=1).load)
    assert not need_known(role, fleet(busy_elsewhere), Backlog())
    assert need_known(role, fleet(gone, other), Backlog())


def test_the_rate_is_of_the_workers_steps_in_which_all_routers_prompts_are() -> None:
    assert prefill_backlog_s(fleet(prefill(0, rate=1000.0)), Backlog(3000.0)) == 3.0
    # A pool must not grow on a guess.
    assert prefill_backlog_s(fleet(replace(prefill(0), rates=UNMEASURED)), Backlog(3000.0)) < 0.2


@given(decode_workers)
def test_a_sum_does_not_change_when_an_idle_worker_joins(present: list[object]) -> None:
    assert decode_use(fleet(*present, decode(100)), Backlog()) == decode_use(fleet(*present), Backlog())


def test_a_worker_that_drains_is_no_capacity_and_no_load() -> None:
    assert decode_use(fleet(decode(0, running=10, state=DRAINING)), Backlog(0.0, 5)) == 0


@pytest.mark.parametrize(
    ("worker", "queued", "use"),
    [
        (decode(0), 0, 0.0),
        (decode(0, running=8, free=80), 0, 0.8),
        (decode(0, running=2, free=10), 0, 0.9),
        (decode(0, running=2, waiting=2, free=10), 0, 1.8),  # Those that wait want blocks as well.
        (decode(0, running=10, free=60), 5, 1.5),
    ],
)
def test_decode_is_as_full_as_its_cache_or_its_batch_with_those_that_wait(
    worker: object, queued: int, use: float
) -> None:
    assert decode_use(fleet(worker), Backlog(0.0, queued)) == pytest.approx(use)


def told(router: int, backlog: Backlog, number: int) -> RouterBacklog:
    return RouterBacklog(
        router_id=f"r{router}",
        number=number,
        prefill_tokens=round(backlog.prefill_tokens),
        decode_requests=backlog.decode_requests,
    )


@given(st.lists(st.lists(backlogs, min_size=1, max_size=3), min_size=1, max_size=4), st.randoms())
def test_each_router_comes_to_the_same_sum_however_often_and_late_others_backlogs_reach_it(
    histories: list[list[Backlog]], draw: object
) -> None:
    heard = [told(router, past, at) for router, history in enumerate(histories) for at, past in enumerate(history, 1)]
    heard = heard * 2
    draw.shuffle(heard)  # type: ignore[attr-defined]
    now = [history[-1] for history in histories]
    everyones = Backlog(sum(one.prefill_tokens for one in now), sum(one.decode_requests for one in now))
    for router, own in enumerate(now):
        assert with_others(own, f"r{router}", heard) == everyones
