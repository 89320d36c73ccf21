"""``segue scale`` and ``segue drain`` on Kubernetes: the same contract as of other pools, kept by the operator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc.aio
import kopf
import pytest

from segue.base.errors import Conflict, InvalidRequest, NotFound, Unavailable
from segue.cluster.manager import serve_pools
from segue.cluster.pools import PoolsView
from segue.cluster.pools_service import view_of
from segue.operator.api import Api
from segue.operator.kubernetes_pools import KubernetesPools
from segue.operator.names import LEAVE_FIRST
from segue.operator.shrink import Load
from segue.proto.pools_pb2 import DrainWorkerRequest, ScaleRequest, WatchPoolsRequest
from segue.proto.pools_pb2_grpc import PoolsStub
from segue.proto.worker_pb2 import ROLE_DECODE
from tests.k8s.operator.conftest import World

if TYPE_CHECKING:
    from segue.proto.pools_pb2_grpc import PoolsAsyncStub


async def test_scaling_and_draining_over_grpc_work_as_on_other_pools(world: World) -> None:
    async with world.operator():
        await world.put()
        await world.settle(world.ready)
        async with (
            Api(world.login) as api,
            KubernetesPools(api, "segue", "chat") as pools,
            serve_pools(pools) as address,
            grpc.aio.insecure_channel(address) as channel,
        ):
            stub: PoolsAsyncStub = PoolsStub(channel)
            scaled = view_of(await stub.Scale(ScaleRequest(targets=[ScaleRequest.Target(role=ROLE_DECODE, workers=3)])))
            assert (scaled.backend, scaled.of("decode").desired, scaled.of("prefill").desired) == ("kubernetes", 3, 1)
            await world.settle(lambda: len(pools.view().of("decode").workers) == 3)
            first, second, third = sorted(one.worker_id for one in pools.view().of("decode").workers)
            for pod, requests in ((first, 1), (second, 4), (third, 2)):
                world.workers.load[pod] = Load(requests=requests)

            drained = view_of(await stub.Drain(DrainWorkerRequest(worker_id=second))).of("decode")
            assert drained.desired == 2
            assert [one.worker_id for one in drained.workers if one.phase == "leaving"] == [second]
            await world.settle(lambda: world.workers.told)
            world.workers.load[second] = Load(draining=True)
            settling = asyncio.create_task(_settled(stub))
            await world.settle(settling.done)
            left = settling.result()
    assert {one.worker_id for one in left.of("decode").workers} == {first, third}, "the one that was named has left"
    assert {one.place for one in left.of("decode").workers} == {"node-1"}


async def _settled(stub: PoolsAsyncStub) -> PoolsView:
    async for state in stub.Watch(WatchPoolsRequest()):
        view = view_of(state)
        if all(len(pool.workers) == pool.desired for pool in view.pools):
            return view
    raise AssertionError("the watch ended")


async def test_what_cannot_be_done_is_refused_as_on_other_pools(world: World) -> None:
    async with world.operator():
        await world.put(scaling={"mode": "Fixed"}, decode={"replicas": 2})
        await world.settle(world.ready)
    async with Api(world.login) as api, KubernetesPools(api, "segue", "chat") as pools:
        await world.settle(lambda: pools.view().pools)
        with pytest.raises(InvalidRequest, match="a pool has at least 1"):
            await pools.scale({"decode": 0})
        with pytest.raises(Conflict, match=r"mode of PDCluster chat is Fixed.*change spec\.decode\.replicas"):
            await pools.scale({"decode": 3})
        with pytest.raises(NotFound, match="no worker 'nobody'"):
            await pools.drain("nobody")
        (last,) = pools.view().of("prefill").workers
        with pytest.raises(Conflict, match="the last prefill worker"):
            await pools.drain(last.worker_id)


async def test_two_who_drain_at_a_time_drain_two(world: World) -> None:
    async with world.operator():
        await world.put(decode={"replicas": 3})
        await world.settle(world.ready)
        await world.settle(lambda: len(world.nodes.pods("chat-decode")) == 3)
    async with Api(world.login) as api, KubernetesPools(api, "segue", "chat") as pools:
        await world.settle(lambda: pools.view().pools)
        first, second, third = (one.worker_id for one in pools.view().of("decode").workers)
        await asyncio.gather(pools.drain(first), pools.drain(second))
        assert world.replicas("PDPool", "chat-decode") == 1
        with pytest.raises(Conflict, match="the last decode worker"):
            await pools.drain(third)
        phases = {one.worker_id: one.phase for one in pools.view().of("decode").workers}
    assert phases == {first: "leaving", second: "leaving", third: "running"}


async def test_an_api_server_that_is_gone_is_said_so() -> None:
    nowhere = kopf.ConnectionInfo(server="http://127.0.0.1:1")
    async with Api(lambda: nowhere) as api, KubernetesPools(api, "segue", "chat") as pools:
        with pytest.raises(Unavailable, match="the API server wasn't reached"):
            await pools.scale({"decode": 2})
        with pytest.raises(Unavailable, match="the API server wasn't reached"):
            await pools.drain("chat-decode-1")


async def test_a_drain_that_is_refused_leaves_no_mark(world: World) -> None:
    async with world.operator():
        await world.put(decode={"replicas": 2, "minReplicas": 2})
        await world.settle(world.ready)
        async with Api(world.login) as api, KubernetesPools(api, "segue", "chat") as pools:
            await world.settle(lambda: pools.view().pools)
            first, _ = pools.view().of("decode").workers
            with pytest.raises(Conflict, match="the bounds in the PDCluster"):
                await pools.drain(first.worker_id)
            assert {one.phase for one in pools.view().of("decode").workers} == {"running"}
        assert LEAVE_FIRST not in _annotations(world, first.worker_id)


async def test_a_name_that_no_shrink_has_followed_goes(world: World) -> None:
    async with world.operator():
        await world.put(decode={"replicas": 2})
        await world.settle(world.ready)
        await world.settle(lambda: len(world.nodes.pods("chat-decode")) == 2)
        pod = world.nodes.pods("chat-decode")[0]
        pod["metadata"]["annotations"] = {**pod["metadata"].get("annotations", {}), LEAVE_FIRST: "1000000000.0"}
        await world.api.write("Pod", pod)
        await world.put(decode={"replicas": 2, "drainTimeoutSeconds": 99})  # Have it look.
        await world.settle(lambda: LEAVE_FIRST not in _annotations(world, pod["metadata"]["name"]))
    assert world.replicas("Deployment", "chat-decode") == 2


def _annotations(world: World, pod: str) -> dict[str, str]:
    live = world.api.find("Pod", pod)
    assert live is not None
    annotations: dict[str, str] = live["metadata"].get("annotations", {})
    return annotations


async def test_the_api_servers_own_words_reach_whoever_scales_out_of_bounds(world: World) -> None:
    async with world.operator():
        await world.put()
        await world.settle(world.ready)
    async with Api(world.login) as api, KubernetesPools(api, "segue", "chat") as pools:
        with pytest.raises(
            Conflict, match="replicas must lie between minReplicas and maxReplicas, the bounds in the PDCluster"
        ):
            await pools.scale({"prefill": 3, "decode": 99})
        assert world.replicas("PDPool", "chat-prefill") == 1, "both or none"
    async with Api(world.login) as api, KubernetesPools(api, "segue", "other") as pools:
        with pytest.raises(NotFound, match="no PDCluster other in namespace segue"):
            await pools.scale({"decode": 2})
