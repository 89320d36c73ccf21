"""Real processes with simulated engines: load grows the pools, its end shrinks them, and nothing is lost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from segue.client import Connection, SegueClient
from segue.cluster.autoscaling.autoscaler import autoscaling
from segue.cluster.autoscaling.fleet_watch import FleetWatch
from segue.cluster.autoscaling.settings import AutoscalerSettings, autoscaler_settings, scaling_figures
from segue.cluster.autoscaling.with_pools import Mode
from segue.cluster.local import LocalCluster, this_machine
from segue.cluster.local_pools import run_local
from segue.cluster.pools import Pools, PoolsView
from segue.cluster.ports import choose_ports
from segue.cluster.readiness import wait_until_ready
from segue.cluster.restarts import RestartPolicy
from segue.engine.embedded_model import ensure_embedded_model
from tests.cluster.load import PATIENT, Load

# A CPU's steps, small targets and short windows: half a dozen clients are a load, and a test takes seconds.
WORKER_ARGS = ("--engine", "simulated", "--engine-arg", "gpu=CPU", "--log-format", "json")
FIGURES = {
    "prefill_max": 2,
    "decode_max": 2,
    "prefill_use": 0.02,
    "decode_use": 0.008,
    "interval_s": 0.3,
    "window_s": 3,
    "warm_after_s": 0,
    "down_window_s": 2,
    "down_period_s": 0.5,
}


def settings(mode: Mode) -> AutoscalerSettings:
    return autoscaler_settings(mode, scaling_figures(FIGURES))


def counts(view: PoolsView) -> tuple[int, ...]:
    return tuple(len(pool.workers) for pool in view.pools)


async def until_recommended(pools: Pools, *wanted: int) -> None:
    async for view in pools.watch():
        if tuple(pool.recommended for pool in view.pools) == wanted:
            return


async def until_there_are(pools: Pools, *wanted: int) -> None:
    async for view in pools.watch():
        if counts(view) == wanted:
            return


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_load_grows_the_pools_and_its_end_shrinks_them_with_nothing_lost(tmp_path: Path) -> None:
    cluster = LocalCluster(
        model=str(ensure_embedded_model()),
        run_dir=tmp_path,
        ports=choose_ports("127.0.0.1"),
        device="cpu",
        router_args=PATIENT,
        worker_args=WORKER_ARGS,
        drain_timeout_s=30.0,
    )
    watch = FleetWatch(cluster.router_addresses)
    async with run_local(cluster, this_machine(), RestartPolicy("exit"), lambda _: None, watch.work) as pools:
        await wait_until_ready(cluster.http, 1, 1, 90.0, lambda _: None)
        async with SegueClient(Connection(f"127.0.0.1:{cluster.ports.grpc}")) as client:
            load = Load(client)
            async with asyncio.TaskGroup() as tasks:  # An answer that fails ends the test.
                asking = [tasks.create_task(load.go_on(asker)) for asker in range(8)]
                async with autoscaling(settings("advise"), pools, watch) as advised:
                    await until_recommended(advised, 2, 2)
                    assert counts(pools.view()) == (1, 1), "advice alone changes nothing"
                async with autoscaling(settings("act"), pools, watch) as scaled:
                    await until_there_are(scaled, 2, 2)
                    await wait_until_ready(cluster.http, 2, 2, 90.0, lambda _: None)
                    for task in asking[1:]:
                        task.cancel()
                    # One goes on asking, and notices nothing of those that leave.
                    await until_there_are(scaled, 1, 1)
                    answered = load.answered
                    while load.answered < answered + 2:
                        await asyncio.sleep(0.05)
                asking[0].cancel()
    assert load.changed == []
