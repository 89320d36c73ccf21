"""Choosing workers: a pure function over a snapshot, by its properties and by single cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.base.errors import Unavailable
from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.worker_pb2 import EngineFacts, Load, Role, WorkerState
from segue.router.disaggregation import Disaggregation
from segue.router.fleet import FleetSnapshot, WorkerView
from segue.router.lines import Line
from segue.router.planner import NO_ASK, Plan, Policy, plan
from segue.router.prediction import Ask, decode_cost, prefill_cost
from segue.router.rates import Rates
from segue.router.transfers import Links

READY = WorkerState.WORKER_STATE_READY
BLOCK = 16
FACTS = EngineFacts(
    engine="scripted",
    kv_blocks=1000,
    max_running_requests=8,
    layout=BlockLayout(block_tokens=BLOCK, block_bytes=BLOCK * 1000),
)
ALWAYS = Policy(disaggregation=Disaggregation("always"))
ROOMY = Load(free_blocks=1000)
PREFILL_RATES = Rates(prefill_tokens_per_s=10_000, prefill=Line(0.005, 1e-4, 20))
DECODE_RATES = Rates(decode_s=2.0, decode_tokens=100, step=Line(0.01, 0.0005, 20))


def worker(worker_id: str, role: Role, state: WorkerState = READY, **changes: object) -> WorkerView:
    rates = PREFILL_RATES if role == Role.ROLE_PREFILL else DECODE_RATES
    view = WorkerView(worker_id, "e1", role, state, "", "127.0.0.1:1", FACTS, ROOMY, 0, 0, rates=rates)
    return replace(view, **changes)  # type: ignore[arg-type]


def prefill(number: int, **changes: object) -> WorkerView:
    return worker(f"prefill-{number}", Role.ROLE_PREFILL, **changes)  # type: ignore[arg-type]


def decode(number: int, **changes: object) -> WorkerView:
    return worker(f"decode-{number}", Role.ROLE_DECODE, **changes)  # type: ignore[arg-type]


def fleet(*workers: WorkerView, **changes: object) -> FleetSnapshot:
    return FleetSnapshot(workers, **changes)  # type: ignore[arg-type]


def queued(tokens: int, requests: int = 1, **changes: object) -> dict[str, object]:
    return {"assigned_prefill_tokens": tokens, "assigned_requests": requests, "assigned_tokens": tokens, **changes}


# Who is there


@pytest.mark.parametrize(
    ("workers", "named", "unnamed"),
    [
        ((), ["no prefill and no decode worker are ready", "attached workers: none"], []),
        ((prefill(0),), ["no decode worker is ready", "prefill-0"], ["no prefill"]),
        (
            (prefill(0), decode(0, state=WorkerState.WORKER_STATE_LOADING, detail="reading weights")),
            ["no decode worker is ready", "decode-0 (reading weights)"],
            ["no prefill"],
        ),
    ],
)
def test_a_decode_pool_without_a_ready_worker_is_named(
    workers: tuple[WorkerView, ...], named: list[str], unnamed: list[str]
) -> None:
    with pytest.raises(Unavailable) as caught:
        plan(fleet(*workers))
    for words in named:
        assert words in caught.value.message
    for words in unnamed:
        assert words not in caught.value.message


@pytest.mark.parametrize("others", [(), (prefill(0, state=WorkerState.WORKER_STATE_DRAINING),)])
def test_without_a_prefill_worker_decode_computes_the_prompt(others: tuple[WorkerView, ...]) -> None:
    made = plan(fleet(decode(0), *others), policy=ALWAYS)
    assert made == Plan(None, "decode-0")
    assert made.reason == "no prefill worker was ready"


@pytest.mark.parametrize(
    ("prefills", "avoid", "chosen"),
    [
        ((prefill(0), prefill(1)), {"prefill-0"}, "prefill-1"),
        ((prefill(0, spared=True), prefill(1, **queued(99))), set[str](), "prefill-1"),
        # Rather one that is spared than the one that has just failed this request; rather that one than none.
        ((prefill(0, spared=True), prefill(1)), {"prefill-1"}, "prefill-0"),
        ((prefill(0),), {"prefill-0"}, "prefill-0"),
        ((prefill(0, spared=True),), set[str](), "prefill-0"),
    ],
)
def test_workers_that_fail_are_left_out_as_long_as_there_are_others(
    prefills: tuple[WorkerView, ...], avoid: set[str], chosen: str
) -> None:
    assert plan(fleet(*prefills, decode(0)), NO_ASK, avoid, ALWAYS).prefill_id == chosen


# What weighs


@pytest.mark.parametrize(
    ("prefills", "chosen"),
    [
        ((prefill(0, **queued(1000)), prefill(1, **queued(900))), "prefill-1"),
        ((prefill(0, load=Load(waiting_tokens=1000, free_blocks=1000)), prefill(1)), "prefill-1"),
        # Many short prompts are less than one long one.
        ((prefill(0, **queued(900, requests=9)), prefill(1, **queued(4000))), "prefill-0"),
        ((prefill(0, **queued(5000)), prefill(1, state=WorkerState.WORKER_STATE_WARMING)), "prefill-0"),
        # One that has been at it for a while is sooner done.
        ((prefill(0, **queued(4000, busy_since_s=99.7)), prefill(1, **queued(4000, busy_since_s=99.9))), "prefill-0"),
        # One that is faster may have more ahead.
        (
            (
                prefill(0, **queued(4000), rates=Rates(prefill=Line(0.005, 2e-5, 20))),
                prefill(1, **queued(2000)),
            ),
            "prefill-0",
        ),
        # No room for the prompt's blocks.
        ((prefill(0, load=Load(free_blocks=3)), prefill(1, **queued(9000))), "prefill-1"),
    ],
)
def test_prefill_goes_where_it_is_done_first(prefills: tuple[WorkerView, ...], chosen: str) -> None:
    assert plan(fleet(*prefills, decode(0), now_s=100.0), Ask(1000), policy=ALWAYS).prefill_id == chosen


@pytest.mark.parametrize(
    ("queue_tokens", "cached", "chosen"),
    [
        (0, 800, "prefill-0"),
        (700, 800, "prefill-0"),  # Worth waiting for.
        (900, 800, "prefill-1"),  # Not worth it.
    ],
)
def test_a_cached_prefix_weighs_what_it_saves(queue_tokens: int, cached: int, chosen: str) -> None:
    holder = prefill(0, **queued(queue_tokens) if queue_tokens else {})
    ask = Ask(1000, cached={"prefill-0": cached})
    made = plan(fleet(holder, prefill(1), decode(0)), ask, policy=ALWAYS)
    assert made.prefill_id == chosen
    assert made.prefill_tokens == (1000 - cached if chosen == "prefill-0" else 1000)
    assert plan(fleet(holder, prefill(1, turn=1), decode(0)), ask, policy=replace(ALWAYS, routing="load"))


@pytest.mark.parametrize(
    ("decodes", "chosen"),
    [
        ((decode(0, assigned_requests=3), decode(1, assigned_requests=2)), "decode-1"),
        (
            (
                decode(0, load=Load(running_requests=1, waiting_requests=2, free_blocks=999)),
                decode(1, assigned_requests=2),
            ),
            "decode-1",
        ),
        # Full: of places, of blocks.
        ((decode(0, assigned_requests=8), decode(1, assigned_requests=7)), "decode-1"),
        (
            (
                decode(0, load=Load(running_requests=1, free_blocks=9), assigned_requests=1),
                decode(1, load=Load(running_requests=6, free_blocks=900), assigned_requests=6),
            ),
            "decode-1",
        ),
    ],
)
def test_decode_goes_where_tokens_come_fastest(decodes: tuple[WorkerView, ...], chosen: str) -> None:
    assert plan(fleet(prefill(0), *decodes), Ask(1000), policy=ALWAYS).decode_id == chosen


LINKS = Links(Line(0.001, 1e-8, 50), {("prefill-0", "decode-0"): Line(0.1, 1e-6, 9)})


def test_blocks_that_decode_has_need_no_transfer() -> None:
    ask = Ask(1000, cached={"decode-1": 960})
    made = plan(fleet(prefill(0), decode(0), decode(1, assigned_requests=0, turn=5), links=LINKS), ask, policy=ALWAYS)
    assert made.decode_id == "decode-1"


def test_a_slow_link_is_avoided_where_another_pair_costs_less() -> None:
    made = plan(fleet(prefill(0), decode(0), decode(1, turn=5), links=LINKS), Ask(1000), policy=ALWAYS)
    assert (made.prefill_id, made.decode_id) == ("prefill-0", "decode-1")
    other = fleet(prefill(0), prefill(1, turn=5), decode(0), links=LINKS)
    assert plan(other, Ask(1000), policy=ALWAYS).prefill_id == "prefill-1"


def test_round_robin_looks_at_turns_alone() -> None:
    views = fleet(
        prefill(0, turn=3),
        prefill(1, turn=2, **queued(9000)),
        decode(0, turn=2),
        decode(1, turn=3, assigned_requests=0),
    )
    made = plan(views, Ask(1000, cached={"prefill-0": 960}), policy=replace(ALWAYS, routing="round-robin"))
    assert (made.prefill_id, made.decode_id) == ("prefill-1", "decode-0")


# Properties

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
