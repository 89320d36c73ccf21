"""What holds of a plan in any fleet."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from segue.proto.worker_pb2 import Load, Role, WorkerState
from segue.router.planning.disaggregation import Disaggregation
from segue.router.planning.planner import Plan, Policy, decode_instead, plan
from segue.router.planning.prediction import Ask, decode_cost, prefill_cost
from segue.router.rates.lines import Line
from segue.router.rates.transfers import Links
from segue.router.rates.worker_rates import Rates
from segue.router.workers.fleet import FleetSnapshot, WorkerView
from tests.router.routing.fleets import ALWAYS, FACTS, READY, decode, fleet, prefill

counts = st.integers(0, 9)
loads = st.builds(
    Load,
    running_requests=counts,
    waiting_requests=counts,
    waiting_tokens=st.integers(0, 5000),
    free_blocks=st.integers(0, 1000),
)
rates = st.builds(
    Rates,
    decode_s=st.floats(0, 10),
    decode_tokens=st.floats(0, 500),
    prefill=st.builds(Line, st.floats(0, 0.05), st.floats(0, 1e-3), st.integers(0, 9)),
    step=st.builds(Line, st.floats(0, 0.05), st.floats(0, 1e-3), st.integers(0, 9)),
    stall=st.builds(Line, st.floats(0, 0.05), st.floats(0, 1e-3), st.integers(0, 9)),
    join_s=st.floats(0, 0.1),
)


@st.composite
def views(draw: st.DrawFn, role: Role, number: int) -> WorkerView:
    return WorkerView(
        worker_id=f"{Role.Name(role)}-{number}",
        epoch="e",
        role=role,
        state=draw(st.sampled_from([READY, READY, READY, WorkerState.WORKER_STATE_DRAINING])),
        detail="",
        address="",
        facts=FACTS,
        load=draw(loads),
        assigned_requests=draw(counts),
        assigned_tokens=draw(st.integers(0, 5000)),
        assigned_prefill_tokens=draw(st.integers(0, 5000)),
        spared=draw(st.booleans()),
        rates=draw(rates),
        busy_since_s=draw(st.floats(0, 100)),
        turn=draw(st.integers(0, 20)),
    )


@st.composite
def fleets(draw: st.DrawFn) -> FleetSnapshot:
    workers = [
        draw(views(role, number))
        for role in (Role.ROLE_PREFILL, Role.ROLE_DECODE)
        for number in range(draw(st.integers(0, 4)))
    ]
    common = draw(st.builds(Line, st.floats(0, 0.01), st.floats(0, 1e-8), st.integers(0, 9)))
    return FleetSnapshot(tuple(workers), Links(common), now_s=100.0)


@st.composite
def asks(draw: st.DrawFn, workers: Sequence[WorkerView]) -> Ask:
    prompt = draw(st.integers(1, 5000))
    cached = draw(st.dictionaries(st.sampled_from([view.worker_id for view in workers]), st.integers(0, prompt)))
    return Ask(prompt, draw(st.integers(0, 500)), cached, draw(st.integers(0, 99)))


policies = st.builds(
    Policy,
    st.sampled_from(["kv", "load", "round-robin"]),
    st.builds(Disaggregation, st.sampled_from(["auto", "always", "never"])),
)


def _ready(workers: Sequence[WorkerView], role: Role) -> Mapping[str, WorkerView]:
    return {view.worker_id: view for view in workers if view.role == role and view.ready}


@settings(max_examples=300, deadline=None)
@given(st.data(), policies, st.booleans())
def test_never_a_full_spared_or_draining_worker_when_another_will_do(
    data: st.DataObject, policy: Policy, leans: bool
) -> None:
    drawn = data.draw(fleets().filter(lambda some: some.ready(Role.ROLE_DECODE)))
    ask = data.draw(asks(drawn.workers))
    made = plan(drawn, ask, (), policy, leans)
    now_s = drawn.now_s
    decodes, prefills = _ready(drawn.workers, Role.ROLE_DECODE), _ready(drawn.workers, Role.ROLE_PREFILL)
    chosen = decodes[made.decode_id]
    assert not chosen.spared or all(view.spared for view in decodes.values())
    seen = replace(ask, cached={}) if policy.routing != "kv" else ask
    if policy.routing != "round-robin":
        rivals = [view for view in decodes.values() if view.spared == chosen.spared]
        assert not decode_cost(chosen, seen, now_s).full or all(decode_cost(view, seen, now_s).full for view in rivals)
    if made.prefill_id is None:
        assert not prefills or policy.disaggregation.mode != "always"
        return
    first = prefills[made.prefill_id]
    assert policy.disaggregation.mode != "never"
    assert not first.spared or all(view.spared for view in prefills.values())
    if policy.routing != "round-robin":
        rivals = [view for view in prefills.values() if view.spared == first.spared]
        assert not prefill_cost(first, seen, now_s).full or all(prefill_cost(view, seen, now_s).full for view in rivals)


@settings(max_examples=300, deadline=None)
@given(st.data(), policies, st.booleans())
def test_what_decode_would_compute_instead_is_planned_there_where_nobody_else_could(
    data: st.DataObject, policy: Policy, leans: bool
) -> None:
    views_ = [data.draw(views(role, 0)) for role in (Role.ROLE_PREFILL, Role.ROLE_DECODE)]
    pair = FleetSnapshot(tuple(replace(view, state=READY, spared=False) for view in views_), now_s=100.0)
    ask = Ask(data.draw(st.integers(1, 5000)))
    if decode_instead(pair, ask, policy.disaggregation, leans):
        assert plan(pair, ask, (), policy, leans).prefill_id is None


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_worker_that_was_not_chosen_is_not_chosen_for_having_more_to_do(data: st.DataObject) -> None:
    drawn = data.draw(fleets().filter(lambda some: some.ready(Role.ROLE_DECODE)))
    ask = data.draw(asks(drawn.workers))
    made = plan(drawn, ask, (), ALWAYS)
    others = [view for view in drawn.workers if view.worker_id not in {made.prefill_id, made.decode_id}]
    if not others:
        return
    other = data.draw(st.sampled_from(others))
    load = Load()
    load.CopyFrom(other.load)
    load.running_requests += data.draw(counts)
    load.waiting_tokens += data.draw(st.integers(0, 5000))
    load.free_blocks -= data.draw(st.integers(0, load.free_blocks))
    busier = replace(
        other,
        load=load,
        assigned_requests=other.assigned_requests + data.draw(counts),
        assigned_tokens=other.assigned_tokens + data.draw(st.integers(0, 5000)),
        assigned_prefill_tokens=other.assigned_prefill_tokens + data.draw(st.integers(0, 5000)),
    )
    after = replace(drawn, workers=tuple(busier if view is other else view for view in drawn.workers))
    again = plan(after, ask, (), ALWAYS)
    assert other.worker_id not in {again.prefill_id, again.decode_id}


@settings(max_examples=100, deadline=None)
@given(
    prefills=st.integers(1, 5),
    decodes=st.integers(1, 5),
    requests=st.integers(0, 40),
    tokens=st.integers(1, 999),
    running=st.integers(0, 6),
)
def test_equal_workers_share_equally_busy_or_idle(
    prefills: int, decodes: int, requests: int, tokens: int, running: int
) -> None:
    """Whether requests end before the next one comes or pile up."""
    now = {view.worker_id: view for view in [*map(prefill, range(prefills)), *map(decode, range(decodes))]}
    chosen: Counter[str] = Counter()
    under_way: list[Plan] = []
    for turn in range(1, requests + 1):
        made = plan(fleet(*now.values()), Ask(tokens), policy=ALWAYS)
        under_way.append(made)
        for worker_id in (str(made.prefill_id), made.decode_id):
            now[worker_id] = _assigned(now[worker_id], 1, tokens, turn)
            chosen[worker_id] += 1
        if len(under_way) > running:
            done = under_way.pop(0)
            for worker_id in (str(done.prefill_id), done.decode_id):
                now[worker_id] = _assigned(now[worker_id], -1, -tokens, now[worker_id].turn)
    for pool, size in (("prefill", prefills), ("decode", decodes)):
        shares = [chosen[f"{pool}-{number}"] for number in range(size)]
        assert sum(shares) == requests
        assert max(shares) - min(shares) <= 1


def _assigned(view: WorkerView, requests: int, tokens: int, turn: int) -> WorkerView:
    return replace(
        view,
        assigned_requests=view.assigned_requests + requests,
        assigned_tokens=view.assigned_tokens + tokens,
        assigned_prefill_tokens=view.assigned_prefill_tokens + tokens if view.role == Role.ROLE_PREFILL else 0,
        turn=turn,
    )


@settings(max_examples=200, deadline=None)
@given(st.data(), policies, st.booleans())
def test_a_plan_depends_on_nothing_but_what_it_is_given(data: st.DataObject, policy: Policy, leans: bool) -> None:
    drawn = data.draw(fleets().filter(lambda some: some.ready(Role.ROLE_DECODE)))
    ask = data.draw(asks(drawn.workers))
    made = plan(drawn, ask, (), policy, leans)
    shuffled = replace(drawn, workers=tuple(data.draw(st.permutations(drawn.workers))))
    assert plan(shuffled, ask, (), policy, leans) == made
