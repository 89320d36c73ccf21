"""Orders to move a request, with a stand-in for vLLM's Request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from vllm.v1.request import RequestStatus

from segue.kv_transfer.moves import MoveOrder, Moves, give, like_a_prefill, movable_tokens


@dataclass
class FakeRequest:
    """What is read and written of ``vllm.v1.request.Request``."""

    request_id: str = "engine-a"
    max_tokens: int = 100
    num_output_tokens: int = 5
    num_tokens: int = 20
    num_computed_tokens: int = 19
    num_in_flight_tokens: int = 0
    status: RequestStatus = RequestStatus.RUNNING
    kv_transfer_params: dict[str, Any] | None = None

    def end(self, status: RequestStatus, output_tokens: int) -> None:
        self.status, self.num_output_tokens = status, output_tokens


@pytest.fixture
def request_() -> Any:
    return FakeRequest()


@pytest.fixture
def moves(request_: Any) -> Moves:
    made = Moves()
    made.on_new_request(request_)
    return made


def ordered() -> dict[str, MoveOrder]:
    return {"engine-a": MoveOrder("kv-m", "req-a")}


def test_the_next_token_is_the_last_one(moves: Moves, request_: Any) -> None:
    orders = ordered()
    moves.on_orders(orders)
    assert request_.max_tokens == 6
    request_.end(RequestStatus.FINISHED_LENGTH_CAPPED, 6)
    assert moves.finished(request_) is orders["engine-a"]


@pytest.mark.parametrize(
    ("status", "output_tokens", "max_tokens"),
    [
        (RequestStatus.FINISHED_ABORTED, 5, 100),  # Nobody would take the offer.
        (RequestStatus.FINISHED_STOPPED, 6, 100),
        (RequestStatus.FINISHED_ERROR, 6, 100),
        (RequestStatus.FINISHED_LENGTH_CAPPED, 6, 6),
    ],
)
def test_who_ends_by_itself_meanwhile_is_not_moved(
    moves: Moves, request_: Any, status: RequestStatus, output_tokens: int, max_tokens: int
) -> None:
    request_.max_tokens = max_tokens
    moves.on_orders(ordered())
    request_.end(status, output_tokens)
    assert moves.finished(request_) is None


def test_a_second_order_and_one_for_a_request_that_is_over_change_nothing(moves: Moves, request_: Any) -> None:
    first = ordered()
    moves.on_orders(first)
    moves.on_orders(ordered())
    request_.end(RequestStatus.FINISHED_LENGTH_CAPPED, 6)
    assert moves.finished(request_) is first["engine-a"]
    params = request_.kv_transfer_params
    moves.on_orders(ordered())
    assert request_.kv_transfer_params is params


def test_an_order_given_with_an_abort_holds(moves: Moves, request_: Any) -> None:
    order = MoveOrder("kv-m", "req-a")
    give(request_, order)
    request_.end(RequestStatus.FINISHED_ABORTED, 5)
    assert moves.finished(request_) is order


@pytest.mark.parametrize(("computed", "in_flight", "tokens"), [(19, 0, 19), (20, 1, 19), (21, 1, 19), (0, 0, 0)])
def test_the_last_token_and_what_a_step_still_computes_do_not_count(
    request_: Any, computed: int, in_flight: int, tokens: int
) -> None:
    request_.num_computed_tokens, request_.num_in_flight_tokens = computed, in_flight
    assert movable_tokens(request_) == tokens


def test_what_vllm_is_shown_is_taken_back(request_: Any) -> None:
    request_.status, request_.kv_transfer_params = RequestStatus.FINISHED_ABORTED, {"a": 1}
    with pytest.raises(KeyError), like_a_prefill(request_):
        assert request_.status == RequestStatus.FINISHED_LENGTH_CAPPED
        assert request_.kv_transfer_params == {"do_remote_decode": True}
        raise KeyError
    assert (request_.status, request_.kv_transfer_params) == (RequestStatus.FINISHED_ABORTED, {"a": 1})
