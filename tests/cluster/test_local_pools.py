"""Pools of real processes with simulated engines, scaled while they serve."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

import grpc.aio
import pytest
import pytest_asyncio

from segue.base.errors import Conflict, NotFound
from segue.client import Connection, SegueClient
from segue.cluster.local import LocalCluster, this_machine
from segue.cluster.local_pools import LocalPools, run_local
from segue.cluster.manager import serve_pools
from segue.cluster.pools_service import view_of
from segue.cluster.ports import choose_ports
from segue.cluster.readiness import wait_until_ready
from segue.cluster.restarts import RestartPolicy
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.pools_pb2 import DrainWorkerRequest, ScaleRequest, WatchPoolsRequest
from segue.proto.pools_pb2_grpc import PoolsStub
from segue.proto.worker_pb2 import Role
from tests.cluster.load import PATIENT, Load

pytestmark = pytest.mark.asyncio(loop_scope="module")

PREFILL, DECODE = Role.ROLE_PREFILL, Role.ROLE_DECODE


@dataclass
class Running:
    cluster: LocalCluster
    pools: LocalPools
    address: str
    work: dict[str, float] = field(default_factory=dict)

    async def ready(self, prefill: int, decode: int) -> None:
        await wait_until_ready(self.cluster.http, prefill, decode, 60.0, lambda _: None)

    async def settled(self) -> None:
        async for view in self.pools.watch():
            if not any(worker.phase == "leaving" for pool in view.pools for worker in pool.workers):
                return

    def counts(self) -> tuple[int, int]:
        prefill, decode = self.pools.view().pools
        return len(prefill.workers), len(decode.workers)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    cluster = LocalCluster(
        model=str(ensure_embedded_model()),
        run_dir=tmp_path_factory.mktemp("cluster"),
        ports=choose_ports("127.0.0.1"),
        device="cpu",
        router_args=PATIENT,
        worker_args=("--engine", "simulated", "--log-format", "json"),
        drain_timeout_s=20.0,
    )
    known: dict[str, float] = {}

    async def work() -> Mapping[str, float]:
        return known

    async with (
        run_local(cluster, this_machine(), RestartPolicy("exit"), lambda event: None, work) as pools,
        serve_pools(pools) as address,
    ):
        running = Running(cluster, pools, address, known)
        await running.ready(1, 1)
        yield running


def scaled(**pools: int) -> ScaleRequest:
    roles = {"prefill": PREFILL, "decode": DECODE}
    return ScaleRequest(targets=[ScaleRequest.Target(role=roles[pool], workers=n) for pool, n in pools.items()])


async def test_what_can_not_be_done_is_refused_and_changes_nothing(running: Running) -> None:
    before = running.pools.view()
    with pytest.raises(Conflict, match="decode-0 is the last decode worker"):
        await running.pools.drain("decode-0")
    with pytest.raises(NotFound, match=r"no worker 'decode-7'.*prefill-0, decode-0"):
        await running.pools.drain("decode-7")
    async with grpc.aio.insecure_channel(running.address) as channel:
        stub = PoolsStub(channel)
        for request, told in (
            (scaled(prefill=0), "a pool has at least 1"),
            (scaled(prefill=60, decode=60), "120 workers are wanted in all"),
            (ScaleRequest(), "name the pools to scale"),
            (ScaleRequest(targets=[*scaled(prefill=1).targets, *scaled(prefill=2).targets]), "prefill is named twice"),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Scale(request)
            assert told in (raised.value.details() or "")
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Drain(DrainWorkerRequest(worker_id=""))
        assert raised.value.code() is grpc.StatusCode.NOT_FOUND
        first = await anext(aiter(stub.Watch(WatchPoolsRequest())))
    assert view_of(first) == running.pools.view() == before


@pytest.mark.timeout(180)
async def test_pools_grow_and_shrink_under_load_and_no_answer_is_lost_or_changed(running: Running) -> None:
    connection = Connection(f"127.0.0.1:{running.cluster.ports.grpc}")
    async with SegueClient(connection) as client, grpc.aio.insecure_channel(running.address) as channel:
        stub = PoolsStub(channel)
        load = Load(client)
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(load.go_on(asker)) for asker in range(6)]
            await stub.Scale(scaled(decode=2))
            await running.ready(1, 2)
            await stub.Scale(scaled(prefill=2))
            await running.ready(2, 2)
            assert running.counts() == (2, 2)
            at_most = load.answered
            # Those with the least to do leave, not those with the highest numbers.
            running.work.update({"prefill-1": 5.0, "decode-1": 5.0})
            await stub.Scale(scaled(prefill=1, decode=1))
            await running.settled()
            seen = {worker.worker_id for pool in running.pools.view().pools for worker in pool.workers}
            assert seen == {"prefill-1", "decode-1"}
            while load.answered < at_most + 12:
                await asyncio.sleep(0.02)
            for task in asking:
                task.cancel()
    assert load.changed == []
    assert load.answered >= 12
