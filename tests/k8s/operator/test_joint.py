"""Scaling mode Joint: what the routers of a PDCluster say, asked of them, becomes numbers of workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from segue.operator.joint import JointScaler, policy_of, pools_as_asked
from segue.operator.shrink import Load, Worker
from segue.operator.spec import ClusterSpec, parse_spec
from segue.proto.fleet_pb2 import FleetRates, FleetState, ListFleetRequest, StepTime, WatchFleetRequest
from segue.proto.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server
from tests.cluster.autoscaling.test_fleet_readings import decode, prefill, state
from tests.k8s.operator.objects import cluster


class Router(FleetServicer):
    """What it says is up to the test."""

    def __init__(self) -> None:
        self.says = FleetState()

    async def Watch(self, request: WatchFleetRequest, context: Any) -> AsyncIterator[FleetState]:
        raise AssertionError("nobody asks for that here")
        yield

    async def List(self, request: ListFleetRequest, context: Any) -> FleetState:
        return self.says


@pytest.fixture
async def router() -> AsyncIterator[tuple[Router, int]]:
    made, server = Router(), grpc.aio.server()
    add_FleetServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield made, port
    await server.stop(grace=None)


def spec(gpus: int = 4, **more: Any) -> ClusterSpec:
    return parse_spec(cluster(scaling={"mode": "Joint"}, budget={"gpus": gpus}, **more)["spec"])


def worker(pod: str, requests: int = 0, *, leaving: bool = False, started: bool = True) -> Worker:
    return Worker(
        pod,
        ready=started,
        started_s=1.0 if started else None,
        leaving_since_s=5.0 if leaving else None,
        load=Load(requests=requests),
    )


async def test_prompts_that_one_worker_cannot_read_in_time_get_another_within_the_budget(
    router: tuple[Router, int],
) -> None:
    says, port = router
    step = StepTime(fixed_s=0.01, per_request_s=0.0001, samples=50)
    rates = FleetRates(arriving_prompt_tokens_per_s=1500, arriving_requests_per_s=2, mean_output_tokens=20)
    says.says = state(prefill("p"), decode("d", running=2, free=90, step=step), rates=rates)
    view = pools_as_asked({"prefill": 1, "decode": 1}, {"prefill": (worker("p"),), "decode": (worker("d"),)})
    decided = await JointScaler(port=port).decide(spec(), ["127.0.0.1"], view)
    assert decided.pools == {"prefill": 2}
    assert "1+1 serves" in decided.reason
    held = await JointScaler(port=port).decide(spec(gpus=2), ["127.0.0.1"], view)
    assert held.pools == {}, "the budget is used up"


async def test_where_no_router_answers_nothing_is_decided() -> None:
    view = pools_as_asked({"prefill": 1, "decode": 1}, {})
    decided = await JointScaler(port=1).decide(spec(), ["127.0.0.1"], view)
    assert decided.pools == {}
    assert decided.reason == "none of 1 routers has said anything"


def test_the_policy_has_the_clusters_budget_and_bounds() -> None:
    pools = {"prefill": {"gpus": 4, "maxReplicas": 3}, "decode": {"gpus": 2, "minReplicas": 2, "replicas": 2}}
    policy = policy_of(spec(gpus=24, **pools))
    assert policy.joint is not None
    budget = policy.joint.budget
    assert (budget.gpus, budget.prefill_gpus, budget.decode_gpus) == (24, 4, 2)
    assert (policy.prefill.bounds.most, policy.decode.bounds.least) == (3, 2)


def test_a_pod_that_is_still_to_be_made_counts_as_one_that_starts() -> None:
    workers = worker("a"), worker("b", started=False)
    pool = pools_as_asked({"prefill": 1, "decode": 3}, {"decode": workers}).of("decode")
    assert [one.phase for one in pool.workers] == ["running", "restarting", "restarting"]
    assert pool.desired == 3


def test_one_that_is_still_to_be_marked_leaves_as_one_that_is() -> None:
    workers = worker("a", 3), worker("b", 1), worker("c", leaving=True)
    pool = pools_as_asked({"prefill": 1, "decode": 1}, {"decode": workers}).of("decode")
    assert {one.worker_id: one.phase for one in pool.workers} == {"a": "running", "b": "leaving", "c": "leaving"}
