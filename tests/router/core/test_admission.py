"""Admission: never when idle, always at last, more load never turns a refusal into a yes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.worker_pb2 import EngineFacts, Load, Role, WorkerState
from segue.router.queueing.admission import Admission, Demand, predicted_wait
from segue.router.queueing.slo import SloClass
from segue.router.queueing.waiting import Ahead
from segue.router.rates.worker_rates import UNMEASURED, Rates
from segue.router.workers.fleet import FleetSnapshot, WorkerView

# Promises so little that only the bound in question refuses.
PATIENT = SloClass("patient", ttft_s=1e6)
DEMAND = Demand(timeout_s=600.0, prompt_tokens=100, output_tokens=50)
PREFILL, DECODE = Role.ROLE_PREFILL, Role.ROLE_DECODE


def worker(
    role: Role,
    number: int = 0,
    *,
    requests: int = 0,
    tokens: int = 0,
    rates: Rates = UNMEASURED,
    places: int = 16,
    blocks: int = 1000,
    load: Load | None = None,
    ends_s: tuple[float, ...] = (),
) -> WorkerView:
    return WorkerView(
        worker_id=f"{Role.Name(role)}-{number}",
        epoch="e",
        role=role,
        state=WorkerState.WORKER_STATE_READY,
        detail="",
        address="",
        facts=EngineFacts(
            max_running_requests=places if role == DECODE else 1, kv_blocks=blocks, layout=BlockLayout(block_tokens=16)
        ),
        load=load or Load(free_blocks=blocks),
        assigned_requests=requests,
        assigned_tokens=tokens,
        rates=rates,
        ends_s=ends_s,
    )


def fleet(*workers: WorkerView) -> FleetSnapshot:
    return FleetSnapshot(workers)


counts = st.integers(0, 500)
measured = st.builds(
    Rates,
    prefill_tokens_per_s=st.sampled_from([0.0, 50.0, 5_000.0]),
    decode_s=st.sampled_from([0.0, 0.01, 3.0, 100.0]),
    decode_tokens=st.sampled_from([0.0, 1.0, 300.0]),
)
demands = st.builds(
    Demand,
    timeout_s=st.floats(0.001, 600),
    prompt_tokens=st.integers(0, 20_000),
    output_tokens=st.integers(0, 20_000),
    n=st.integers(1, 8),
)
pools = st.tuples(st.integers(1, 3), st.integers(1, 3))
capacities = st.tuples(st.integers(0, 300), st.integers(0, 3_000))


@st.composite
def fleets(draw: st.DrawFn, *, idle: bool) -> FleetSnapshot:
    prefill, decode = draw(pools)
    places, blocks = draw(capacities)
    workers = []
    for role, count in ((PREFILL, prefill), (DECODE, decode)):
        for number in range(count):
            load = Load(free_blocks=blocks)
            if not idle:
                load = Load(
                    running_requests=draw(counts),
                    waiting_requests=draw(counts),
                    waiting_tokens=draw(counts),
                    free_blocks=draw(st.integers(0, blocks)),
                )
            view = worker(role, number, rates=draw(measured), places=places, blocks=blocks, load=load)
            if not idle:
                view = dataclasses.replace(view, assigned_requests=draw(counts), assigned_tokens=100 * draw(counts))
            workers.append(view)
    return FleetSnapshot(tuple(workers))


@settings(deadline=None)
@given(fleets(idle=True), demands)
def test_an_idle_cluster_refuses_nobody(idle: FleetSnapshot, demand: Demand) -> None:
    assert Admission().refusal(idle, demand, PATIENT) is None


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_more_load_never_turns_a_refusal_into_a_yes(data: st.DataObject) -> None:
    before, demand = data.draw(fleets(idle=False)), data.draw(demands)
    more = []
    for view in before.workers:
        load = Load()
        load.CopyFrom(view.load)
        load.running_requests += data.draw(counts)
        load.waiting_requests += data.draw(counts)
        load.waiting_tokens += data.draw(counts)
        load.free_blocks -= data.draw(st.integers(0, load.free_blocks))
        more.append(
            dataclasses.replace(
                view,
                load=load,
                assigned_requests=view.assigned_requests + data.draw(counts),
                assigned_tokens=view.assigned_tokens + data.draw(counts),
            )
        )
    after = FleetSnapshot(tuple(more))
    assert predicted_wait(after, demand).seconds >= predicted_wait(before, demand).seconds
    if Admission().refusal(before, demand, PATIENT) is not None:
        assert Admission().refusal(after, demand, PATIENT) is not None


@settings(deadline=None)
@given(fleets(idle=True), demands)
def test_admitting_ends_if_nothing_is_answered(idle: FleetSnapshot, demand: Demand) -> None:
    """Each admitted request is assigned to the least loaded worker of each pool, as the planner would."""
    demand = dataclasses.replace(demand, prompt_tokens=demand.prompt_tokens + 1)
    workers = list(idle.workers)
    for _ in range(12):
        # In batches, as sizes are of any magnitude: thousands of requests are no bound that anyone would notice.
        if Admission().refusal(FleetSnapshot(tuple(workers)), demand, PATIENT) is not None:
            return
        workers = [
            dataclasses.replace(
                view,
                assigned_requests=2 * view.assigned_requests + 64,
                assigned_tokens=2 * view.assigned_tokens + 64 * demand.prompt_tokens,
            )
            for view in workers
        ]
    raise AssertionError("a hundred thousand requests were admitted and none refused")


@settings(deadline=None)
@given(fleets(idle=False), demands)
def test_a_refusal_says_when_to_come_back(busy: FleetSnapshot, demand: Demand) -> None:
    refusal = Admission().refusal(busy, demand, PATIENT)
    if refusal is not None:
        assert 0 < refusal.retry_after_s <= 60
        assert "try again in" in refusal.reason


def test_prompt_tokens_queued_ahead_are_weighed_by_the_measured_rate() -> None:
    rates = Rates(prefill_tokens_per_s=1_000.0)
    decode = worker(DECODE)
    assert (
        Admission(2.0).refusal(fleet(worker(PREFILL, requests=1, tokens=2_000, rates=rates), decode), DEMAND, PATIENT)
        is None
    )
    refusal = Admission(2.0).refusal(
        fleet(worker(PREFILL, requests=1, tokens=6_000, rates=rates), decode), DEMAND, PATIENT
    )
    assert refusal is not None
    assert "the wait for prefill would be 6.0 s and --max-queue-s is 2 s" in refusal.reason
    assert refusal.retry_after_s == 5.0
    faster = dataclasses.replace(worker(PREFILL, requests=1, tokens=6_000), rates=Rates(prefill_tokens_per_s=6_000.0))
    assert Admission(2.0).refusal(fleet(faster, decode), DEMAND, PATIENT) is None


def test_a_prompt_that_decode_computes_waits_for_a_place_alone() -> None:
    queued = worker(PREFILL, requests=1, tokens=10**6)
    assert predicted_wait(fleet(queued, worker(DECODE, requests=1)), DEMAND, on_decode=True).seconds == 0
    full = worker(DECODE, requests=16, rates=Rates(decode_s=4.0))
    assert predicted_wait(fleet(queued, full), DEMAND, on_decode=True).what == "a place in decode"


def test_a_free_worker_of_the_pool_is_enough() -> None:
    full = worker(PREFILL, 0, requests=1, tokens=10**6)
    assert Admission().refusal(fleet(full, worker(PREFILL, 1), worker(DECODE)), DEMAND, PATIENT) is None


def test_a_worker_that_is_spared_is_no_room() -> None:
    spared, full = dataclasses.replace(worker(PREFILL, 0), spared=True), worker(PREFILL, 1, requests=1, tokens=10**6)
    assert Admission().refusal(fleet(spared, full, worker(DECODE)), DEMAND, PATIENT) is not None
    assert Admission().refusal(fleet(spared, worker(DECODE)), DEMAND, PATIENT) is None


def test_prompt_tokens_of_other_routers_count() -> None:
    prefill = worker(PREFILL, requests=1, load=Load(waiting_tokens=10**6))
    assert Admission().refusal(fleet(prefill, worker(DECODE)), DEMAND, PATIENT) is not None


def test_a_load_that_a_worker_reported_last_before_it_fell_idle_refuses_nobody() -> None:
    stale = Load(running_requests=16, waiting_requests=900, waiting_tokens=10**6)
    assert Admission().refusal(fleet(worker(PREFILL, load=stale), worker(DECODE, load=stale)), DEMAND, PATIENT) is None


def test_a_full_decode_worker_is_waited_for_until_one_of_its_answers_is_over() -> None:
    rates, ends_s = Rates(decode_s=4.0, decode_tokens=10.0), tuple(1.0 + number for number in range(16))

    def wait_s(requests: int, n: int = 1) -> float:
        decode = worker(DECODE, requests=requests, rates=rates, ends_s=ends_s[: min(requests, 16)])
        return predicted_wait(fleet(worker(PREFILL), decode), dataclasses.replace(DEMAND, n=n)).seconds

    assert [wait_s(requests) for requests in (15, 16, 18)] == [0.0, 1.0, 3.0]
    assert [wait_s(15, n) for n in (1, 2, 3)] == [0.0, 1.0, 2.0]
    # Who takes the place that comes free first, after 1 s, leaves it 4 s later.
    assert wait_s(32) == 5.0


def test_of_answers_that_began_together_no_place_comes_free_before_they_end_together() -> None:
    rates, together_s = Rates(decode_s=4.0, decode_tokens=10.0), (3.9,) * 16
    full = fleet(worker(PREFILL), worker(DECODE, requests=16, rates=rates, ends_s=together_s))
    assert predicted_wait(full, DEMAND).seconds == 3.9
    soon = dataclasses.replace(full, now_s=3.8)
    assert predicted_wait(soon, DEMAND, Ahead(requests=15)).seconds == pytest.approx(0.1)


def test_answers_of_other_routers_end_evenly_over_the_time_that_answers_take() -> None:
    load = Load(running_requests=16, free_blocks=1000)
    full = worker(DECODE, requests=1, rates=Rates(decode_s=3.0, decode_tokens=10.0), load=load)
    assert predicted_wait(fleet(worker(PREFILL), full), DEMAND).seconds == 0.2


def test_on_several_workers_whoever_is_ahead_takes_what_comes_free_first() -> None:
    rates = Rates(decode_s=4.0, decode_tokens=10.0)
    decodes = [
        worker(DECODE, number, requests=2, places=2, rates=rates, ends_s=(1.0 + number, 3.0)) for number in (0, 1)
    ]
    both = fleet(worker(PREFILL), *decodes)
    waits = [predicted_wait(both, DEMAND, Ahead(requests=ahead)).seconds for ahead in range(5)]
    assert waits == [1.0, 2.0, 3.0, 3.0, 5.0]


def test_blocks_are_counted_as_they_will_be_at_the_requests_ends() -> None:
    # 10 requests of 160 + 160 tokens in blocks of 16: 20 each, and the last one begun. One more lacks 11.
    rates, ends_s = Rates(decode_s=10.0, decode_tokens=160.0), tuple(0.5 + number for number in range(10))
    decode = worker(
        DECODE, requests=10, tokens=1_600, rates=rates, blocks=220, load=Load(free_blocks=220), ends_s=ends_s
    )
    prompts = fleet(worker(PREFILL), decode)
    wait = predicted_wait(prompts, Demand(600.0, prompt_tokens=160, output_tokens=160))
    assert wait.what == "KV cache blocks in decode"
    assert wait.seconds == 0.5
    # One of 521 + 160 lacks 34, which two have between them.
    assert predicted_wait(prompts, Demand(600.0, prompt_tokens=521, output_tokens=160)).seconds == 1.5


def test_a_deadline_that_would_pass_in_the_queue_is_refused_at_once() -> None:
    busy = fleet(worker(PREFILL, requests=1, tokens=3_000, rates=Rates(prefill_tokens_per_s=1_000.0)), worker(DECODE))
    assert Admission(5.0).refusal(busy, DEMAND, PATIENT) is None
    refusal = Admission(5.0).refusal(busy, dataclasses.replace(DEMAND, timeout_s=1.0), PATIENT)
    assert refusal is not None
    assert "the request's deadline leaves 1 s" in refusal.reason


def test_an_empty_pool_is_the_planners_to_refuse() -> None:
    assert Admission().refusal(fleet(), DEMAND, PATIENT) is None
