"""Real vLLM engines on Ray: scaled under a steady load, bereft of a node and of their driver: ``make test-scaling``."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from segue.client import Connection, FleetClient, SegueClient
from segue.cluster.on_ray.settings import RayCluster, RayPool
from segue.cluster.pools_access import PoolsAt
from segue.cluster.ports import choose_ports
from segue.cluster.readiness import RouterHttp, wait_until_ready
from tests.cluster.scaled import scaled, settled
from tests.cluster.steady import ROUTER_ARGS, RouterLog, SteadyLoad, at_baseline, left_empty
from tests.e2e.reference import Reference

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.variant, pytest.mark.timeout(2700)]

READY_S = 900.0
USED_WITHIN_S = 10.0

# Starts the cluster and then does nothing, so that it can be killed: what it was told is on its command line.
DRIVER = """
import json, sys, time, ray
from dataclasses import asdict
from segue.cluster.on_ray.manager import start_manager
from segue.cluster.on_ray.settings import NAMESPACE, RayCluster, RayPool
told = json.loads(sys.argv[2])
pools = {name: RayPool(**told.pop(name)) for name in ("prefill", "decode")}
ray.init(address=sys.argv[1], namespace=NAMESPACE, log_to_driver=False)
print(json.dumps(asdict(start_manager(RayCluster(**told, **pools)))), flush=True)
time.sleep(3600)
"""


@asynccontextmanager
async def driven(ray_address: str, cluster: RayCluster) -> AsyncIterator[dict[str, str]]:
    """The cluster's addresses, by a driver that has been killed since. The cluster is stopped in the end."""
    from segue.cluster.on_ray.manager import stop_manager

    command = [sys.executable, "-c", DRIVER, ray_address, json.dumps(asdict(cluster))]
    driver = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    try:
        assert driver.stdout is not None
        line = await asyncio.wait_for(driver.stdout.readline(), READY_S)
    finally:
        driver.kill()
        await driver.wait()
    try:
        yield json.loads(line)
    finally:
        await asyncio.to_thread(stop_manager)


async def status(address: str) -> dict[str, Any]:
    """What ``segue status`` tells, in a process that has nothing to do with the driver."""
    command = [sys.executable, "-m", "segue.cli", "status", "--address", address, "--json", "--timeout", "60"]
    asked = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    told: dict[str, Any] = json.loads(asked.stdout)
    return told


async def streaming_on(connection: Connection, worker_id: str) -> None:
    """Wait until the worker writes something."""
    async with FleetClient(connection, timeout_s=60.0) as client:
        while True:
            seen = {worker.worker_id: worker.load.running_requests for worker in (await client.state()).workers}
            if seen.get(worker_id):
                return


async def test_a_cluster_on_ray_is_scaled_loses_its_driver_and_a_node_and_no_stream_notices(
    nodes: Any, model: str, reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def add_node() -> Any:  # In the main thread, where Ray sets signal handlers.
        return nodes.add_node(num_cpus=2, node_ip_address="127.0.0.1")

    add_node()
    ports, more = choose_ports("127.0.0.1"), choose_ports("127.0.0.1")
    cluster = RayCluster(
        model=model,
        log_dir=str(tmp_path),
        prefill=RayPool(num_cpus=1),
        decode=RayPool(num_cpus=1),
        port=ports.http,
        grpc_port=ports.grpc,
        worker_port=ports.worker,
        pools_port=more.http,
        router_args=ROUTER_ARGS,
        worker_args=("--engine-arg", "dtype=float32", "--log-format", "json"),
        drain_timeout_s=300.0,
    )
    log = RouterLog(tmp_path / "router.log")
    async with driven(nodes.address, cluster) as addresses:
        connection = Connection(addresses["grpc"])
        http = RouterHttp(f"http://{addresses['http']}")

        async def ready(prefill: int, decode: int) -> None:
            await wait_until_ready(http, prefill, decode, READY_S, lambda _: None)

        at = PoolsAt(addresses["pools"], token=addresses["token"])
        async with at.stub() as stub, SegueClient(connection) as client:
            load = SteadyLoad(client)
            await ready(1, 1)
            assert {worker["worker_id"] for worker in (await status(addresses["grpc"]))["workers"]} == {
                "prefill-0",
                "decode-0",
            }
            async with load.running():
                await load.more(8)
                second = add_node()
                for prefill, decode in ((1, 2), (2, 2)):
                    await stub.Scale(scaled(prefill, decode))
                    await ready(prefill, decode)
                    await load.more(24)
                used = {worker: log.used_after_s(worker) for worker in ("decode-1", "prefill-1")}

                await streaming_on(connection, "decode-1")
                await asyncio.to_thread(nodes.remove_node, second, False)
                await load.more(8)
                add_node()
                await settled(stub, 2, 2, restarts=2)
                await ready(2, 2)
                await load.more(8)

                await stub.Scale(scaled(1, 1))
                view = await settled(stub, 1, 1)
                await load.more(8)
            staying = {worker.worker_id for pool in view.pools for worker in pool.workers}
            await at_baseline(connection, staying)
            assert {worker["worker_id"] for worker in (await status(addresses["grpc"]))["workers"]} == staying
    with capsys.disabled():
        print(f"\n{load.told(used)}")
    assert load.failed == []
    assert any("lost" in reason for reason in load.continued), "the node that was killed wrote for somebody"
    assert await asyncio.to_thread(load.changed, reference) == []
    assert max(used.values()) <= USED_WITHIN_S
    for worker in {"prefill-0", "prefill-1", "decode-0", "decode-1"} - staying:
        assert left_empty(tmp_path / f"{worker}.log"), worker
