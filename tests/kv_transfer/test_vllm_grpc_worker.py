"""Both halves of the gRPC connector, from the scheduler's plan to bytes in the other cache."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
import torch

from segue.kv_transfer.connector_config import KEY, ConnectorConfig
from segue.kv_transfer.vllm_grpc import WorkerHalf
from segue.kv_transfer.vllm_grpc_scheduler import SchedulerHalf, StepPlan
from tests.kv_transfer.ends import BLOCK_TOKENS, BLOCKS, eventually, free_address, tensors
from tests.kv_transfer.vllm_requests import CONFIG, claiming, offering, ticket_of


@dataclass
class End:
    half: WorkerHalf
    tensors: dict[str, torch.Tensor]
    sent: list[str] = field(default_factory=list)
    received: list[str] = field(default_factory=list)

    def step(self) -> list[str]:
        """vLLM asserts that it knows each id, and forgets it: no id may come twice."""
        sent, received = self.half.finished()
        self.sent += sent
        self.received += received
        return self.received


@pytest.fixture
def ends() -> Iterator[tuple[End, End]]:
    made = []
    for serves in (True, False):
        config = ConnectorConfig("w", "e-1", free_address() if serves else "", 30.0, "m")
        half, own = WorkerHalf(config, BLOCK_TOKENS, serves), tensors()
        half.register(own)
        made.append(End(half, own))
    yield made[0], made[1]
    for end in made:
        end.half.close()


def plan_for(ends: tuple[End, End], tokens: int, computed: int) -> tuple[StepPlan, StepPlan]:
    """What both schedulers plan for one hand-off of blocks 3, 4, ... to blocks 10, 11, ..."""
    prefill = SchedulerHalf(ends[0].half._config, BLOCK_TOKENS)
    blocks = -(-tokens // BLOCK_TOKENS)
    _, params = prefill.finished(offering(num_computed_tokens=tokens), list(range(3, 3 + blocks)))
    assert params is not None
    decode = SchedulerHalf(ends[1].half._config, BLOCK_TOKENS)
    request = claiming(ticket_of(tokens, address=params[KEY]["address"]), tokens + 1)
    decode.on_new_request(request)
    external = decode.matched_tokens(request, computed)
    decode.after_alloc(request, list(range(10, 10 + blocks + 1)), external)
    return prefill.take_plan(), decode.take_plan()


@pytest.mark.parametrize(("tokens", "computed"), [(1, 0), (19, 0), (20, 0), (20, 8), (21, 20)])
def test_a_handoff_from_plan_to_bytes(ends: tuple[End, End], tokens: int, computed: int) -> None:
    prefill, decode = ends
    before = {name: tensor.clone() for name, tensor in decode.tensors.items()}
    offers, claims = plan_for(ends, tokens, computed)
    prefill.half.begin(offers)
    decode.half.begin(claims)

    def both_over() -> bool:
        prefill.step()
        decode.step()
        return bool(prefill.sent and decode.received)

    eventually(both_over)
    assert (prefill.sent, decode.received) == (["engine-a"], ["engine-a"])
    blocks, first = -(-tokens // BLOCK_TOKENS), computed // BLOCK_TOKENS
    for name, tensor in decode.tensors.items():
        assert torch.equal(tensor[10 + first : 10 + blocks], prefill.tensors[name][3 + first : 3 + blocks])
        others = [block for block in range(BLOCKS) if not 10 + first <= block < 10 + blocks]
        assert torch.equal(tensor[others], before[name][others])
    reports = decode.half.take_reports()
    assert reports is not None
    assert reports.by_request["engine-a"].tokens == tokens - computed
    assert decode.half.take_load_errors() == set()
    assert decode.half.take_reports() is None


def test_a_transfer_that_fails_names_its_blocks_and_still_reports(ends: tuple[End, End]) -> None:
    """vLLM computes what those blocks were to hold; the blocks from the local cache stay valid."""
    _, decode = ends
    _, claims = plan_for(ends, 19, 8)
    ends[0].half.begin(StepPlan(releases=[(claims.claims[0][1], "cancelled")]))
    claims.claims[0] = (*claims.claims[0][:4], 0.2)
    decode.half.begin(claims)
    eventually(decode.step)
    assert decode.half.take_load_errors() == {12, 13, 14}
    assert decode.half.take_load_errors() == set()
    reports = decode.half.take_reports()
    assert reports is not None
    assert reports.by_request["engine-a"].error != ""


def test_a_cancelled_transfer_is_received_once_so_that_its_blocks_are_freed(ends: tuple[End, End]) -> None:
    _, decode = ends
    _, claims = plan_for(ends, 19, 0)
    claims.cancels.append("engine-a")
    decode.half.begin(claims)
    eventually(decode.step)
    decode.step()
    assert decode.received == ["engine-a"]


def test_blocks_that_nobody_claims_are_freed_when_the_lease_is_over(ends: tuple[End, End]) -> None:
    prefill, _ = ends
    offers, _ = plan_for(ends, 19, 0)
    offers.offers[0] = (*offers.offers[0][:5], 0.0)
    prefill.half.begin(offers)
    prefill.step()
    prefill.step()
    assert prefill.sent == ["engine-a"]


def test_before_the_cache_exists_there_is_nothing_to_do() -> None:
    half = WorkerHalf(CONFIG, BLOCK_TOKENS, serves=True)
    half.begin(StepPlan(cancels=["x"]))
    assert half.finished() == (set(), set())
    half.close()
