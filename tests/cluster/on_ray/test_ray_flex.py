"""Flex workers on Ray: they turn under load and keep their roles, whoever dies: the worker or the manager."""

from __future__ import annotations

import asyncio
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from segue.base.tls import TlsFiles
from segue.client import Connection, SegueClient
from segue.cluster.on_ray.settings import MANAGER, NAMESPACE, RayCluster, RayPool
from segue.cluster.pools import PoolName, PoolWorker
from segue.cluster.pools_service import ROLES, view_of
from segue.cluster.ports import choose_ports
from segue.cluster.readiness import RouterHttp, wait_until_ready
from segue.cluster.run_files import find_pools
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.pools_pb2 import ListPoolsRequest, TurnWorkerRequest, WatchPoolsRequest
from tests.cluster.load import PATIENT
from tests.cluster.streams import Streams

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

PROMPTS = [f"Once upon a time there were {number} bears." for number in range(4)]
ENGINES = [
    pytest.param(("--engine", "simulated"), id="simulated"),
    pytest.param(("--engine-arg", "dtype=float32"), id="vllm", marks=[pytest.mark.engine, pytest.mark.variant]),
]


@dataclass
class Flex:
    """The one flex worker, as its pools see it."""

    stub: Any

    async def turn(self, pool: PoolName) -> PoolWorker:
        await self.stub.Turn(TurnWorkerRequest(worker_id="flex-0", role=ROLES[pool]))
        return await self.running_in(pool)

    async def running_in(self, pool: PoolName, restarts: int = 0) -> PoolWorker:
        async for state in self.stub.Watch(WatchPoolsRequest(), wait_for_ready=True):
            for worker in view_of(state).of(pool).workers:
                if worker.worker_id == "flex-0" and worker.phase == "running" and worker.restarts >= restarts:
                    return worker
        raise AssertionError("the stream ended")


@pytest.mark.parametrize("engine", ENGINES)
async def test_it_turns_under_load_and_comes_back_in_the_role_that_it_had(
    nodes: Any, tmp_path: Path, engine: tuple[str, ...]
) -> None:
    import ray

    from segue.cluster.on_ray.announced import announce
    from segue.cluster.on_ray.manager import start_manager, stop_manager
    from segue.cluster.on_ray.mesh import new_ca

    nodes.add_node(num_cpus=3, node_ip_address="127.0.0.1", resources={"fast": 1.0})
    ports, more = choose_ports("127.0.0.1"), choose_ports("127.0.0.1")
    cluster = RayCluster(
        model=str(ensure_embedded_model()),
        log_dir=str(tmp_path),
        flex=RayPool(workers=1, resources={"fast": 1.0}),
        port=ports.http,
        grpc_port=ports.grpc,
        worker_port=ports.worker,
        pools_port=more.http,
        router_args=PATIENT,
        worker_args=(*engine, "--log-format", "json"),
        drain_timeout_s=60.0,
        ca=new_ca(),
    )
    addresses = await asyncio.to_thread(start_manager, cluster)
    run = announce(addresses, cluster.log_dir, (runs := tmp_path / "runs"))
    trust = TlsFiles(ca=f"{run.certs}/ca.crt")
    router = RouterHttp(addresses.http_url, trust)

    async def ready(prefill: int, decode: int) -> None:
        await wait_until_ready(router, prefill, decode, 900.0, lambda _: None)

    await ready(1, 2)
    async with (
        SegueClient(Connection(addresses.grpc, tls=trust)) as client,
        find_pools("", folder=runs).stub() as stub,
    ):
        flex, streams = Flex(stub), Streams(client, PROMPTS, answer_tokens=60)
        first = await flex.running_in("decode")
        assert dict(first.resources) == {"CPU": 1.0, "fast": 1.0}
        await streams.learn()
        async with streams.flowing():
            await streams.more(4)
            for pool, counts in (("prefill", (2, 1)), ("decode", (1, 2)), ("prefill", (2, 1))):
                worker = await flex.turn(pool)  # type: ignore[arg-type]  # The names of both pools.
                assert (worker.process, worker.resources) == (first.process, first.resources), "the actor is the same"
                assert worker.last_turn_s > 0
                view = view_of(await stub.List(ListPoolsRequest()))
                assert tuple(pool.desired for pool in view.pools) == counts
                await ready(*counts)
                await streams.more(8)
            print(f"the last turn on Ray: {worker.last_turn_s:.3f} s until ready")

            os.kill(int(worker.process.removeprefix("pid ")), signal.SIGKILL)
            again = await flex.running_in("prefill", restarts=1)
            assert again.process != first.process
            await ready(2, 1)

            ray.kill(ray.get_actor(MANAGER, namespace=NAMESPACE), no_restart=False)
            await asyncio.sleep(1)  # For a moment the one that was killed may still seem to be there.
            back = await flex.running_in("prefill")
            assert back.process == again.process
            await flex.turn("decode")
            await ready(1, 2)
            await streams.more(4)
        assert streams.changed == []
    await asyncio.to_thread(stop_manager)
    assert (tmp_path / "flex-0.log").read_text().count('"event": "turned"') == 4
