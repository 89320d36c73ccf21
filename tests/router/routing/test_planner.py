"""Choosing workers: a pure function over a snapshot, by single cases."""

from __future__ import annotations

from dataclasses import replace

import pytest

from segue.base.errors import Unavailable
from segue.cli.explain import decision_table
from segue.proto.worker_pb2 import Load, WorkerState
from segue.router.planning.decisions import explain
from segue.router.planning.disaggregation import Disaggregation
from segue.router.planning.planner import NO_ASK, Plan, Policy, decode_instead, plan
from segue.router.planning.prediction import Ask, decode_cost
from segue.router.rates.lines import Line
from segue.router.rates.transfers import Links
from segue.router.rates.worker_rates import Rates
from segue.router.workers.fleet import WorkerView
from tests.router.routing.fleets import ALWAYS, DECODE_RATES, decode, fleet, prefill


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


# On decode


def test_a_prompt_on_decode_waits_for_the_step_under_way_and_shares_the_next_one() -> None:
    rates = replace(DECODE_RATES, stall=Line(0.001, 1e-4, 20, 500.0))
    busy = decode(0, rates=rates, assigned_requests=2)
    assert decode_cost(busy, Ask(100), 0.0).local_s == pytest.approx(0.5 * 0.011 + 0.0115 + 0.011)
    late = decode(0, rates=replace(rates, local_s=0.004), assigned_requests=2)
    assert decode_cost(late, Ask(100), 0.0).local_s == pytest.approx(0.032)


def test_behind_a_queue_decode_computes_short_prompts_itself_and_leaves_long_ones_to_prefill() -> None:
    rates = replace(DECODE_RATES, stall=Line(0.001, 1e-4, 20, 5000.0))
    busy = prefill(0, **queued(4000, 4))
    some = fleet(busy, decode(0, rates=rates, assigned_requests=4))
    auto = Disaggregation()
    assert decode_instead(some, Ask(50), auto, leans_local=False)
    assert not decode_instead(some, Ask(4000), auto, leans_local=False)
    assert not decode_instead(some, Ask(50), Disaggregation("always"), leans_local=False)
    assert not decode_instead(fleet(prefill(0), decode(0, rates=rates)), Ask(4000), auto, leans_local=False)
    unknown = fleet(busy, decode(0, assigned_requests=4))
    assert not decode_instead(unknown, Ask(50), auto, leans_local=False)


def test_a_few_short_prompts_say_nothing_of_long_ones() -> None:
    """Else the first measurement, of a prompt whose time is all fixed, keeps long ones from decode for ever."""
    short = replace(DECODE_RATES, prefill=Line(0.0, 0.001, 1, 50.0))
    views = fleet(prefill(0), decode(0, rates=short))
    assert "not known yet" in plan(views, Ask(1000, number=1)).reason
    assert plan(views, Ask(1000, number=16)).tried
    assert "take decode" in plan(views, Ask(100, number=1)).reason


def test_who_computes_a_prompt_beside_its_streams_is_explained_with_what_they_lose() -> None:
    """The worker that has half of the prompt cached would be done first, but six streams would wait for it."""
    crowded, idle = decode(0, load=Load(running_requests=6, free_blocks=1000), assigned_requests=6), decode(1)
    rates = Rates(step=Line(0.01, 0.0, 20))
    some = fleet(*(replace(worker, rates=rates) for worker in (crowded, idle)))
    ask = Ask(1000, 16, {"decode-0": 500})
    made = plan(some, ask)
    told = {one.worker_id: one for one in explain(some, ask, (), Policy(), made).candidates}
    assert told["decode-1"].chosen
    assert told["decode-0"].scores_s["prefill"] < told["decode-1"].scores_s["prefill"]
    assert told["decode-1"].scores_s["total"] < told["decode-0"].scores_s["total"]
    assert "held up ms" in [column.header for column in decision_table(explain(some, ask, (), Policy(), made)).columns]
