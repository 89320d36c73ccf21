"""The scheduler half of the gRPC connector, with stand-ins for vLLM's Request."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from vllm.v1.request import RequestStatus

from segue.kv_transfer.connector_config import KEY, TransferReport
from segue.kv_transfer.moves import MoveOrder
from segue.kv_transfer.vllm_grpc_scheduler import SchedulerHalf, StepPlan
from segue.proto.kv_transfer_pb2 import Ticket
from tests.kv_transfer.ends import BLOCK_TOKENS
from tests.kv_transfer.vllm_requests import CONFIG, FakeRequest, claiming, offering, ticket_of

REPORT = TransferReport("grpc", tokens=19, bytes=100, seconds=0.5)


@pytest.fixture
def scheduler() -> SchedulerHalf:
    return SchedulerHalf(CONFIG, BLOCK_TOKENS)


# Which blocks are claimed


@pytest.mark.parametrize("params", [None, {}, {"do_remote_decode": True}])
def test_a_request_without_parameters_of_ours_is_left_alone(
    scheduler: SchedulerHalf, params: dict[str, Any] | None
) -> None:
    request: Any = FakeRequest(kv_transfer_params=params)
    scheduler.on_new_request(request)
    assert scheduler.matched_tokens(request, 0) == 0
    scheduler.after_alloc(request, [1, 2], 0)
    assert scheduler.finished(request, [1, 2]) == (False, None)
    assert scheduler.take_plan() == StepPlan()


@given(tokens=st.integers(1, 60), data=st.data())
def test_what_the_consumer_lacks_is_claimed_from_the_right_block_on(tokens: int, data: st.DataObject) -> None:
    """Seeded requests have one token more than the ticket, exact ones the same; the local cache hits whole blocks."""
    scheduler = SchedulerHalf(CONFIG, BLOCK_TOKENS)
    request = claiming(ticket_of(tokens), num_tokens=tokens + data.draw(st.integers(0, 1)))
    computed = BLOCK_TOKENS * data.draw(st.integers(0, request.num_tokens // BLOCK_TOKENS))
    scheduler.on_new_request(request)
    external = scheduler.matched_tokens(request, computed)
    assert external == max(0, tokens - computed)
    block_ids = list(range(100, 100 + -(-request.num_tokens // BLOCK_TOKENS)))
    scheduler.after_alloc(request, block_ids, external)
    plan = scheduler.take_plan()
    if external == 0:
        ((ticket, reason),) = plan.releases
        assert reason == "acknowledged"
        assert plan.claims == []
    else:
        ((name, ticket, claimed, first_block, _),) = plan.claims
        assert name == "engine-a"
        assert claimed == tuple(block_ids[: -(-tokens // BLOCK_TOKENS)])
        assert first_block == computed // BLOCK_TOKENS
        assert plan.releases == []
    assert Ticket.FromString(ticket).ticket_id == "kv-a"
    assert scheduler.take_plan() == StepPlan()


def test_asking_twice_gives_the_same_and_a_preempted_request_claims_nothing_again(scheduler: SchedulerHalf) -> None:
    """vLLM asks again as long as there are no free blocks; after a preemption it computes the prompt."""
    request = claiming(ticket_of(19), 20)
    scheduler.on_new_request(request)
    assert scheduler.matched_tokens(request, 0) == scheduler.matched_tokens(request, 0) == 19
    scheduler.after_alloc(request, list(range(5)), 19)
    assert scheduler.matched_tokens(request, 0) == 0
    scheduler.after_alloc(request, list(range(5)), 0)
    plan = scheduler.take_plan()
    assert (len(plan.claims), plan.releases) == (1, [])


def test_a_pull_may_take_as_long_as_the_request_has(scheduler: SchedulerHalf) -> None:
    """Not only a lease, which is renewed as long as the request is alive."""
    request = claiming(ticket_of(19), 20, timeout_s=600.0)
    scheduler.on_new_request(request)
    scheduler.after_alloc(request, list(range(5)), 19)
    assert scheduler.take_plan().claims[0][-1] == 600.0


# How claims end


def test_a_request_that_ends_before_it_got_blocks_gives_its_ticket_back(scheduler: SchedulerHalf) -> None:
    request = claiming(ticket_of(19), 20)
    scheduler.on_new_request(request)
    assert scheduler.finished(request, []) == (False, None)
    assert [reason for _, reason in scheduler.take_plan().releases] == ["cancelled"]


def test_a_request_that_ends_before_its_transfer_cancels_it(scheduler: SchedulerHalf) -> None:
    request = claiming(ticket_of(19), 20)
    scheduler.on_new_request(request)
    scheduler.after_alloc(request, list(range(5)), 19)
    assert scheduler.finished(request, list(range(5))) == (False, None)
    plan = scheduler.take_plan()
    assert [claim[0] for claim in plan.claims] == plan.cancels == ["engine-a"]
    assert plan.releases == []


def test_a_report_that_comes_after_its_request_is_forgotten(scheduler: SchedulerHalf) -> None:
    """Nobody would ever take it: each cancelled transfer would stay in memory."""
    request = claiming(ticket_of(19), 20)
    scheduler.on_new_request(request)
    scheduler.after_alloc(request, list(range(5)), 19)
    scheduler.finished(request, [])
    scheduler.on_reports({"engine-a": REPORT})
    assert scheduler._reports == {}


def test_the_report_goes_out_with_the_last_output(scheduler: SchedulerHalf) -> None:
    request = claiming(ticket_of(19), 20)
    scheduler.on_new_request(request)
    scheduler.after_alloc(request, list(range(5)), 19)
    scheduler.on_reports({"engine-a": REPORT})
    held, params = scheduler.finished(request, list(range(5)))
    assert not held
    assert params == {KEY: {"report": asdict(REPORT)}}
    assert scheduler.take_plan().cancels == []
    assert scheduler._reports == {}


# What is offered


def test_a_finished_prefill_holds_its_blocks_and_offers_them(scheduler: SchedulerHalf) -> None:
    held, params = scheduler.finished(offering(num_computed_tokens=19), [4, 2, 9])
    assert held
    assert params == {KEY: {"ticket_id": "kv-a", "tokens": 19, "blocks": 3, "address": "127.0.0.1:1"}}
    assert scheduler.take_plan().offers == [("kv-a", "req-a", "engine-a", (4, 2, 9), 19, 30.0)]


@pytest.mark.parametrize(
    ("status", "block_ids"),
    [
        (RequestStatus.FINISHED_STOPPED, [1]),
        (RequestStatus.FINISHED_ABORTED, [1]),
        (RequestStatus.FINISHED_ERROR, [1]),
        (RequestStatus.FINISHED_LENGTH_CAPPED, []),
    ],
)
def test_what_nobody_will_continue_holds_nothing(
    scheduler: SchedulerHalf, status: RequestStatus, block_ids: list[int]
) -> None:
    """Token 1 ended the answer, or the request was aborted."""
    assert scheduler.finished(offering(status=status), block_ids) == (False, None)
    assert scheduler.take_plan() == StepPlan()


def moving(request: Any, **fields: Any) -> tuple[Any, MoveOrder]:
    """The request as it is when it is aborted to be moved."""
    order = MoveOrder("kv-m", "req-a")
    params = {KEY: {**(request.kv_transfer_params or {}).get(KEY, {}), "move": order}}
    return replace(request, status=RequestStatus.FINISHED_ABORTED, kv_transfer_params=params, **fields), order


@pytest.mark.parametrize(
    ("computed", "in_flight", "tokens", "blocks"),
    [(19, 0, 19, (4, 2, 9, 7, 1)), (20, 1, 19, (4, 2, 9, 7, 1)), (20, 0, 19, (4, 2, 9, 7, 1)), (12, 4, 8, (4, 2))],
)
def test_a_moved_request_offers_what_is_computed_but_for_its_last_token(
    scheduler: SchedulerHalf, computed: int, in_flight: int, tokens: int, blocks: tuple[int, ...]
) -> None:
    """Of 20 tokens. What a step still computes doesn't count."""
    request, order = moving(FakeRequest(), num_computed_tokens=computed, num_in_flight_tokens=in_flight)
    held, params = scheduler.finished(request, [4, 2, 9, 7, 1])
    assert held
    assert params == order.answer
    assert params == {KEY: {"ticket_id": "kv-m", "tokens": tokens, "blocks": len(blocks), "address": "127.0.0.1:1"}}
    assert scheduler.take_plan().offers == [("kv-m", "req-a", "engine-a", blocks, tokens, 30.0)]


def test_a_request_that_ends_by_an_order_says_so_in_its_last_output(scheduler: SchedulerHalf) -> None:
    request: Any = FakeRequest(num_computed_tokens=19, num_in_flight_tokens=0, num_output_tokens=6)
    scheduler.on_new_request(request)
    scheduler.on_orders({"engine-a": MoveOrder("kv-m", "req-a")})
    request.num_output_tokens += 1
    held, params = scheduler.finished(request, [4, 2, 9, 7, 1])
    assert held
    assert params is not None
    assert (params[KEY]["moved"], params[KEY]["ticket_id"], params[KEY]["tokens"]) == (True, "kv-m", 19)
    assert len(scheduler.take_plan().offers) == 1


def test_a_moved_request_that_had_claimed_tells_how_that_went_too(scheduler: SchedulerHalf) -> None:
    request = claiming(ticket_of(18), 20)
    scheduler.on_new_request(request)
    scheduler.after_alloc(request, list(range(5)), 18)
    scheduler.on_reports({"engine-a": REPORT})
    scheduler.take_plan()
    request, order = moving(request, num_computed_tokens=19)
    held, _ = scheduler.finished(request, list(range(5)))
    assert held
    assert order.answer is not None
    assert (order.answer[KEY]["tokens"], order.answer[KEY]["report"]["tokens"]) == (19, 19)
    assert scheduler.take_plan().cancels == []


def test_a_request_moved_before_its_claim_leaves_the_ticket_to_the_router(scheduler: SchedulerHalf) -> None:
    request = claiming(ticket_of(19), 20)
    scheduler.on_new_request(request)
    request, order = moving(request, num_computed_tokens=0)
    assert scheduler.finished(request, []) == (False, None)
    assert order.answer is None
    assert scheduler.take_plan() == StepPlan()


def test_a_request_moved_in_the_middle_of_its_transfer_offers_nothing(scheduler: SchedulerHalf) -> None:
    request = claiming(ticket_of(19), 20)
    scheduler.on_new_request(request)
    scheduler.after_alloc(request, list(range(5)), 19)
    request, order = moving(request)
    assert scheduler.finished(request, list(range(5))) == (False, None)
    assert order.answer is None
    plan = scheduler.take_plan()
    assert (plan.cancels, plan.offers) == (["engine-a"], [])


def test_a_ticket_over_more_tokens_than_the_request_has_is_not_used(scheduler: SchedulerHalf) -> None:
    """Its blocks would be taken for the request's from the wrong one on."""
    request = claiming(ticket_of(50), 20)
    scheduler.on_new_request(request)
    assert scheduler.matched_tokens(request, 0) == 0
    scheduler.after_alloc(request, list(range(5)), 0)
    plan = scheduler.take_plan()
    assert (plan.claims, len(plan.releases)) == ([], 1)
