"""A flex worker with a simulated engine, in a pool of real processes, that changes pools while they serve."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace

import grpc.aio
import pytest
import pytest_asyncio

from segue.base.errors import Conflict, NotFound
from segue.client import Connection, FleetClient, SegueClient
from segue.cluster.local import FlexSettings, LocalCluster, this_machine
from segue.cluster.local_pools import LocalPools, run_local
from segue.cluster.manager import serve_pools
from segue.cluster.pools import PoolName, PoolWorker
from segue.cluster.pools_service import view_of
from segue.cluster.ports import choose_ports
from segue.cluster.readiness import wait_until_ready
from segue.cluster.restarts import RestartPolicy
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.pools_pb2 import TurnWorkerRequest
from segue.proto.pools_pb2_grpc import PoolsStub
from segue.proto.worker_pb2 import Role
from tests.cluster.load import PATIENT
from tests.cluster.streams import Streams

# In one process and in this order: they share their pools.
pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.xdist_group("pools that turn")]

PROMPTS = [f"Once upon a time there were {number} bears." for number in range(8)]


@dataclass
class Running:
    cluster: LocalCluster
    pools: LocalPools
    address: str

    async def ready(self, prefill: int, decode: int) -> None:
        await wait_until_ready(self.cluster.http, prefill, decode, 60.0, lambda _: None)

    def flex(self) -> tuple[PoolName, PoolWorker]:
        """The worker and the pool that it counts for."""
        pools = self.pools.view().pools
        return next((pool.name, one) for pool in pools for one in pool.workers if one.worker_id == "flex-0")

    async def in_phase(self, phase: str) -> None:
        async for _ in self.pools.watch():
            if self.flex()[1].phase == phase:
                return

    def desired(self) -> tuple[int, ...]:
        return tuple(pool.desired for pool in self.pools.view().pools)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Running]:
    cluster = LocalCluster(
        model=str(ensure_embedded_model()),
        run_dir=tmp_path_factory.mktemp("cluster"),
        ports=choose_ports("127.0.0.1"),
        device="cpu",
        flex=FlexSettings(1, "prefill"),
        router_args=PATIENT,
        worker_args=("--engine", "simulated", "--log-format", "json"),
        drain_timeout_s=20.0,
    )
    async with (
        run_local(cluster, this_machine(), RestartPolicy("restart", first_pause_s=0.1), lambda event: None) as pools,
        serve_pools(pools) as address,
    ):
        running = Running(cluster, pools, address)
        await running.ready(2, 1)
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def client(running: Running) -> AsyncIterator[SegueClient]:
    async with SegueClient(Connection(f"127.0.0.1:{running.cluster.ports.grpc}")) as connected:
        yield connected


async def test_what_can_not_be_done_is_refused_and_changes_nothing(running: Running) -> None:
    before = running.pools.view()
    assert running.desired() == (2, 1)
    with pytest.raises(Conflict, match="prefill-0 was started as a prefill worker and stays one"):
        await running.pools.turn("prefill-0", "decode")
    with pytest.raises(NotFound, match=r"no worker 'flex-7'.*flex-0"):
        await running.pools.turn("flex-7", "decode")
    await running.pools.turn("flex-0", "prefill")
    assert running.pools.view() == before


@pytest.mark.timeout(180)
async def test_it_turns_both_ways_under_load_and_no_answer_is_lost_or_changed(
    running: Running, client: SegueClient
) -> None:
    streams = Streams(client, PROMPTS, answer_tokens=60)
    await streams.learn()
    turned: list[Role] = []
    async with grpc.aio.insecure_channel(running.address) as channel, streams.flowing():
        stub = PoolsStub(channel)
        await streams.more(8)
        for role, ready in ((Role.ROLE_DECODE, (1, 2)), (Role.ROLE_PREFILL, (2, 1))) * 2:
            view = view_of(await stub.Turn(TurnWorkerRequest(worker_id="flex-0", role=role)))
            assert tuple(pool.desired for pool in view.pools) == ready, "it counts for its new pool at once"
            await running.in_phase("running")
            assert running.desired() == ready
            await running.ready(*ready)
            async with FleetClient(Connection(f"127.0.0.1:{running.cluster.ports.grpc}")) as fleet:
                (seen,) = [one for one in (await fleet.state()).workers if one.worker_id == "flex-0"]
            turned.append(seen.role)
            assert (seen.flex, seen.turns) == (True, len(turned))
            await streams.more(16)
    assert turned == [Role.ROLE_DECODE, Role.ROLE_PREFILL] * 2
    assert streams.changed == []


async def test_it_is_not_taken_from_a_pool_that_it_is_the_last_of(running: Running) -> None:
    with pytest.raises(Conflict, match="flex-0 is the last prefill worker"):
        await running.pools.drain("prefill-0")
        await running.pools.turn("flex-0", "decode")
    await running.pools.scale({"prefill": 2})
    await running.ready(2, 1)


@pytest.mark.timeout(120)
async def test_one_that_dies_comes_back_in_the_role_that_it_had(running: Running) -> None:
    await running.pools.turn("flex-0", "decode")
    await running.in_phase("running")
    pool, worker = running.flex()
    assert pool == "decode"
    os.kill(int(worker.process.removeprefix("pid ")), signal.SIGKILL)
    await running.in_phase("restarting")
    await running.in_phase("running")
    await running.ready(1, 2)
    assert running.flex()[0] == "decode"
    log = (running.cluster.run_dir / "flex-0.log").read_text()
    assert log.count('"event": "turned"') >= 1
    # In its second life it began as decode, at a port of its own, and turns from there.
    await running.pools.turn("flex-0", "prefill")
    await running.in_phase("running")
    assert running.flex()[0] == "prefill"
    await running.ready(2, 1)


async def test_one_that_is_not_empty_in_time_counts_for_its_old_pool_again(
    running: Running, client: SegueClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await running.pools.turn("flex-0", "decode")
    await running.in_phase("running")
    await running.ready(1, 2)
    monkeypatch.setattr(running.pools, "_cluster", replace(running.cluster, drain_timeout_s=0.3))
    # Those on the exact path can't be moved: they stay until they are over.
    long = [
        asyncio.create_task(
            client.generate(f"{number} bears", max_tokens=400, ignore_eos=True, temperature=1.0, seed=number)
        )
        for number in range(6)
    ]
    while not await _assigned(running):
        await asyncio.sleep(0.02)
    await running.pools.turn("flex-0", "prefill")
    assert running.flex()[0] == "prefill"
    await running.in_phase("running")
    assert running.flex()[0] == "decode"
    assert [len((await one).token_ids) for one in long] == [400] * 6


async def _assigned(running: Running) -> int:
    async with FleetClient(Connection(f"127.0.0.1:{running.cluster.ports.grpc}")) as fleet:
        return next(one.load.running_requests for one in (await fleet.state()).workers if one.worker_id == "flex-0")
