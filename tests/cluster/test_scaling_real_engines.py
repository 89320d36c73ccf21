"""Pools of real vLLM engines on this machine, scaled up and down under a steady load: ``make test-scaling``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc.aio
import pytest

from segue.client import Connection, SegueClient
from segue.cluster.local import LocalCluster, this_machine
from segue.cluster.local_pools import run_local
from segue.cluster.manager import serve_pools
from segue.cluster.ports import choose_ports
from segue.cluster.readiness import wait_until_ready
from segue.cluster.restarts import RestartPolicy
from segue.proto.pools_pb2_grpc import PoolsStub
from tests.cluster.scaled import scaled, settled
from tests.cluster.steady import ROUTER_ARGS, RouterLog, SteadyLoad, at_baseline, left_empty
from tests.e2e.reference import Reference

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.variant, pytest.mark.timeout(1800)]

READY_S = 900.0
USED_WITHIN_S = 10.0


async def test_one_and_one_becomes_two_and_two_and_one_and_one_again_and_no_stream_notices(
    model: str, reference: Reference, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster = LocalCluster(
        model=model,
        run_dir=tmp_path,
        ports=choose_ports("127.0.0.1"),
        device="cpu",
        router_args=ROUTER_ARGS,
        worker_args=("--engine-arg", "dtype=float32", "--log-format", "json"),
        drain_timeout_s=300.0,
    )
    connection, log = Connection(f"127.0.0.1:{cluster.ports.grpc}"), RouterLog(tmp_path / "router.log")

    async def ready(prefill: int, decode: int) -> None:
        await wait_until_ready(cluster.http, prefill, decode, READY_S, lambda _: None)

    async with (
        run_local(cluster, this_machine(), RestartPolicy("exit"), lambda event: None) as pools,
        serve_pools(pools) as address,
        grpc.aio.insecure_channel(address) as channel,
        SegueClient(connection) as client,
    ):
        stub, load = PoolsStub(channel), SteadyLoad(client)
        await ready(1, 1)
        async with load.running():
            await load.more(8)
            for prefill, decode in ((1, 2), (2, 2)):
                await stub.Scale(scaled(prefill, decode))
                await ready(prefill, decode)
                await load.more(24)
            await stub.Scale(scaled(1, 1))
            view = await settled(stub, 1, 1)
            await load.more(8)
        staying = {worker.worker_id for pool in view.pools for worker in pool.workers}
        await at_baseline(connection, staying)
    used = {worker: log.used_after_s(worker) for worker in ("decode-1", "prefill-1")}
    with capsys.disabled():
        print(f"\n{load.told(used)}")
    assert load.failed == []
    assert await asyncio.to_thread(load.changed, reference) == []
    assert max(used.values()) <= USED_WITHIN_S
    gone = {"prefill-0", "prefill-1", "decode-0", "decode-1"} - staying
    assert len(gone) == 2
    for worker in gone:
        assert left_empty(tmp_path / f"{worker}.log"), worker
