"""Scaling mode Joint: what the routers of a PDCluster say, asked of them, becomes numbers of workers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc.aio

from segue.cluster.pools import PoolsView
from segue.operator.joint import (
    ROUTER_PORT,
    JointScaler,
    policy_of,
    pools_as_asked,
    router_addresses,
)
from segue.operator.names import COMPONENT, Manifest
from segue.operator.router_processes import MOST_PROCESSES
from segue.operator.shrink import Load, Worker
from segue.operator.spec import ClusterSpec, parse_spec
from segue.proto.fleet_pb2 import FleetRates, FleetState, ListFleetRequest, StepTime, WatchFleetRequest
from segue.proto.fleet_pb2_grpc import FleetServicer, add_FleetServicer_to_server
from segue.router.settings import RouterSettings
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


@asynccontextmanager
async def serving(says: FleetState) -> AsyncIterator[tuple[Router, str]]:
    made, server = Router(), grpc.aio.server()
    made.says = says
    add_FleetServicer_to_server(made, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    yield made, f"127.0.0.1:{port}"
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


def load(router: str = "r0", share: float = 1.0) -> FleetState:
    """More prompts than one worker can read in time; ``share`` of them come to this router."""
    step = StepTime(fixed_s=0.01, per_request_s=0.0001, samples=50)
    rates = FleetRates(
        arriving_prompt_tokens_per_s=1500 * share, arriving_requests_per_s=2 * share, mean_output_tokens=20
    )
    return state(prefill("p"), decode("d", running=2, free=90, step=step), rates=rates, router=router)


def one_of_each() -> PoolsView:
    return pools_as_asked({"prefill": 1, "decode": 1}, {"prefill": (worker("p"),), "decode": (worker("d"),)})


async def test_prompts_that_one_worker_cannot_read_in_time_get_others_within_the_budget() -> None:
    async with serving(load()) as (_, address):
        decided = await JointScaler().decide(spec(), [address], one_of_each())
        assert decided.pools == {"prefill": 3}
        assert "1+1 serves" in decided.reason
        assert {pool: one.workers for pool, one in decided.wanted.items()} == {"prefill": 3, "decode": 1}
        assert "1+1 serves" in decided.wanted["prefill"].reason
        held = await JointScaler().decide(spec(gpus=2), [address], one_of_each())
    assert held.pools == {}, "the budget is used up"


async def test_what_comes_to_every_process_of_a_router_adds_up() -> None:
    async with serving(load("r0-0", 0.5)) as (_, first), serving(load("r0-1", 0.5)) as (_, second):
        half = await JointScaler().decide(spec(), [first], one_of_each())
        whole = await JointScaler().decide(spec(), [first, second], one_of_each())
    assert (half.pools, whole.pools) == ({}, {"prefill": 3})


def router_pod(name: str, ip: str, *args: str) -> Manifest:
    return {
        "metadata": {"name": name, "labels": {COMPONENT: "router"}},
        "spec": {"containers": [{"name": "router", "args": ["router", "--worker-port=9100", *args]}]},
        "status": {"podIP": ip},
    }


def test_every_process_of_every_router_is_asked() -> None:
    starting: Manifest = {"metadata": {"name": "c", "labels": {COMPONENT: "router"}}, "spec": {}}
    others: Manifest = {"metadata": {"name": "w", "labels": {COMPONENT: "decode-worker"}}, "status": {"podIP": "9"}}
    pods = [router_pod("a", "10.0.0.1", "--processes=3"), router_pod("b", "fd00::1"), starting, others]
    assert router_addresses(pods) == ["10.0.0.1:9100", "10.0.0.1:9101", "10.0.0.1:9102", "[fd00::1]:9100"]
    assert len(router_addresses([router_pod("d", "10.0.0.2", "--processes", "2")])) == 2
    assert len(router_addresses([router_pod("e", "10.0.0.2", "--processes=many")])) == 1
    bare: Manifest = {"metadata": {"labels": {COMPONENT: "router"}}, "status": {"podIP": "10.0.0.3"}}
    assert router_addresses([bare]) == ["10.0.0.3:9100"]


def test_processes_listen_where_they_are_asked() -> None:
    settings = RouterSettings(worker_port=ROUTER_PORT, processes=MOST_PROCESSES, model="m", metrics_port=9400)
    assert settings.worker_ports == tuple(range(ROUTER_PORT, ROUTER_PORT + MOST_PROCESSES))


async def test_where_no_router_answers_nothing_is_decided() -> None:
    view = pools_as_asked({"prefill": 1, "decode": 1}, {})
    decided = await JointScaler().decide(spec(), ["127.0.0.1:1"], view)
    assert (decided.pools, decided.wanted) == ({}, {})
    assert decided.reason == "none of 1 router processes has said anything"


def test_the_policy_has_the_clusters_budget_and_bounds() -> None:
    pools = {"prefill": {"gpus": 4, "maxReplicas": 3}, "decode": {"gpus": 2, "minReplicas": 2, "replicas": 2}}
    policy = policy_of(spec(gpus=24, **pools))
    assert policy.joint is not None
    budget = policy.joint.budget
    assert (budget.gpus, budget.prefill_gpus, budget.decode_gpus) == (24, 4, 2)
    assert (policy.prefill.bounds.most, policy.decode.bounds.least) == (3, 2)
    assert (policy.joint.grow_step, policy.joint.room_starts) == (4, 10)


def test_the_policy_has_the_clusters_rules() -> None:
    rules = {"mode": "Joint", "joint": {"growStep": 1, "roomStarts": 0}}
    policy = policy_of(parse_spec(cluster(scaling=rules, budget={"gpus": 4})["spec"]))
    assert policy.joint is not None
    assert (policy.joint.grow_step, policy.joint.room_starts) == (1, 0)


def test_a_pod_that_is_still_to_be_made_counts_as_one_that_starts() -> None:
    workers = worker("a"), worker("b", started=False)
    pool = pools_as_asked({"prefill": 1, "decode": 3}, {"decode": workers}).of("decode")
    assert [one.phase for one in pool.workers] == ["running", "restarting", "restarting"]
    assert pool.desired == 3


def test_one_that_is_still_to_be_marked_leaves_as_one_that_is() -> None:
    workers = worker("a", 3), worker("b", 1), worker("c", leaving=True)
    pool = pools_as_asked({"prefill": 1, "decode": 1}, {"decode": workers}).of("decode")
    assert {one.worker_id: one.phase for one in pool.workers} == {"a": "running", "b": "leaving", "c": "leaving"}
