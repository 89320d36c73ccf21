"""A cluster on Ray with simulated engines: it grows, loses a node under load, shrinks, and outlives its driver."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import grpc
import pytest

from segue.base.tls import TlsFiles
from segue.client import Connection, SegueClient
from segue.cluster.autoscaling.settings import autoscaler_settings, scaling_figures
from segue.cluster.on_ray.settings import RayCluster, RayPool
from segue.cluster.pools import PoolsView
from segue.cluster.pools_service import view_of
from segue.cluster.ports import choose_ports
from segue.cluster.readiness import RouterHttp, wait_until_ready
from segue.cluster.run_files import RunFile, find_pools
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.pools_pb2 import ListPoolsRequest, WatchPoolsRequest
from tests.cluster.load import PATIENT, Load
from tests.cluster.scaled import scaled, settled
from tests.security.peers import grpc_outcome, plain_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def segue(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "segue.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def add_node(nodes: Any, cpus: int) -> Any:  # In the main thread, where Ray sets signal handlers.
    return nodes.add_node(num_cpus=cpus, node_ip_address="127.0.0.1")


async def until_advised(stub: Any) -> PoolsView:
    """The first view with what the scaling policy says of each pool."""
    async for state in stub.Watch(WatchPoolsRequest()):
        view = view_of(state)
        if all(pool.recommended and pool.reason for pool in view.pools):
            return view
    raise AssertionError("the stream ended")


def pending_bundles() -> list[Any]:
    """Of placement groups, as Ray's autoscaler is told of them."""
    import ray
    from ray.autoscaler.v2.sdk import get_cluster_status

    status = get_cluster_status(ray.get_runtime_context().gcs_address)
    return list(status.resource_demands.placement_group_demand)


def kill_manager() -> None:
    """As a crash would; Ray starts it again."""
    import ray

    from segue.cluster.on_ray.settings import MANAGER, NAMESPACE

    ray.kill(ray.get_actor(MANAGER, namespace=NAMESPACE), no_restart=False)


async def manager_is_back(stub: Any) -> None:
    """It serves its port again; for a moment the one that was killed may still seem to."""
    await asyncio.sleep(1)
    await stub.List(ListPoolsRequest(), wait_for_ready=True, timeout=60)


async def only_its_owner_gets_in(run: RunFile, ports: Iterable[int]) -> None:
    """Over TLS and with certificates, from a process that has nothing to do with the one that started the cluster."""
    asked = ("scale", "--cluster", run.pools, "prefill=1")
    owner = await asyncio.to_thread(segue, *asked, "--certs", run.certs)
    assert (owner.returncode, owner.stdout.count("running")) == (0, 2), owner.stderr
    outsider = await asyncio.to_thread(segue, *asked)
    assert outsider.returncode == 1
    assert "if it asks for certificates" in outsider.stderr
    for port in ports:
        assert plain_bytes(port) == b"", "nothing is served in plain text"
        code, _ = await grpc_outcome(f"127.0.0.1:{port}", None, "", "/segue.v1.Fleet/List")
        assert code == grpc.StatusCode.UNAVAILABLE


async def test_a_cluster_on_ray_grows_loses_a_node_and_shrinks_without_losing_a_word(
    nodes: Any, tmp_path: Path
) -> None:
    from segue.cluster.on_ray.announced import announce, forget
    from segue.cluster.on_ray.manager import start_manager, stop_manager
    from segue.cluster.on_ray.mesh import new_ca

    add_node(nodes, 3)
    ports, more = choose_ports("127.0.0.1"), choose_ports("127.0.0.1")
    cluster = RayCluster(
        model=str(ensure_embedded_model()),
        log_dir=str(tmp_path),
        prefill=RayPool(num_cpus=1),
        decode=RayPool(num_cpus=1),
        port=ports.http,
        grpc_port=ports.grpc,
        worker_port=ports.worker,
        pools_port=more.http,
        router_args=PATIENT,
        worker_args=("--engine", "simulated", "--log-format", "json"),
        scaling=autoscaler_settings("advise", scaling_figures({"interval_s": 0.5})),
        drain_timeout_s=20.0,
        ca=new_ca(),
    )
    addresses = await asyncio.to_thread(start_manager, cluster)
    run = announce(addresses, cluster.log_dir, (runs := tmp_path / "runs"))
    trust = TlsFiles(ca=f"{run.certs}/ca.crt")

    async def ready(prefill: int, decode: int) -> None:
        await wait_until_ready(RouterHttp(addresses.http_url, trust), prefill, decode, 120.0, lambda _: None)

    await ready(1, 1)
    async with (
        SegueClient(Connection(addresses.grpc, tls=trust)) as client,
        find_pools("", folder=runs).stub() as stub,
    ):
        load = Load(client)
        async with asyncio.TaskGroup() as tasks:
            asking = [tasks.create_task(load.go_on(asker)) for asker in range(4)]
            assert (await until_advised(stub)).scaling_mode == "advise"
            await stub.Scale(scaled(2, 2))
            # Of four workers three find room; Ray's own autoscaler sees that one more is wanted.
            while not await asyncio.to_thread(pending_bundles):
                await asyncio.sleep(0.2)
            second = add_node(nodes, 2)
            view = await settled(stub, 2, 2)
            await ready(2, 2)
            places = {worker.worker_id: worker.place for pool in view.pools for worker in pool.workers}
            assert len(set(places.values())) == 2, "the new node has workers"

            answered = load.answered
            await asyncio.to_thread(nodes.remove_node, second, False)
            add_node(nodes, 2)
            while load.answered < answered + 12:
                await asyncio.sleep(0.05)
            back = await settled(stub, 2, 2)
            assert sum(worker.restarts for pool in back.pools for worker in pool.workers) >= 1
            await ready(2, 2)

            await asyncio.to_thread(kill_manager)
            await manager_is_back(stub)
            await settled(stub, 2, 2)

            await stub.Scale(scaled(1, 1))
            await settled(stub, 1, 1)
            answered = load.answered
            while load.answered < answered + 8:
                await asyncio.sleep(0.05)
            for task in asking:
                task.cancel()
        assert load.changed == []
        assert len((await stub.List(ListPoolsRequest())).pools) == 2
        await only_its_owner_gets_in(run, (ports.http, ports.grpc, ports.worker, more.http))
    stopped = await asyncio.to_thread(stop_manager)
    assert stopped is not None
    assert (stopped.pools, stopped.http_url) == (addresses.pools, addresses.http_url)
    forget(stopped, runs)
    assert list(runs.iterdir()) == []
