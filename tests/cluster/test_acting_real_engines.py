"""The scaling policy acting on real vLLM engines, out of one budget and under load: ``make test-scaling``."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from segue.cluster.pools import PoolsView, PoolView
from segue.cluster.pools_service import view_of
from segue.cluster.ports import choose_ports
from segue.cluster.run_files import find_pools
from segue.loadtest.measure.result import read_result
from segue.proto.pools_pb2 import WatchPoolsRequest
from tests.e2e.running import Cluster, running_cluster

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.variant, pytest.mark.timeout(1800)]

BUDGET = 4
# A small part of what an engine on a CPU can do is to be its fair share, so that little is a load; short windows.
FIGURES = {"joint_use": 0.15, "joint_room_starts": 1, "window_s": 10, "interval_s": 2, "warm_after_s": 5}
PACE = {"joint_patience_s": 5, "joint_pause_s": 5, "down_window_s": 15, "down_period_s": 5}
STARTUP_S = 900.0
HEAVY = ("-c", "6", "-n", "24", "--input-tokens", "200-300", "--output-tokens", "32-64")
LIGHT = ("--rate", "0.2", "-n", "3", "--input-tokens", "20", "--output-tokens", "16")


class LoadTests:
    """``segue loadtest``, again and again, each time with other requests."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self._cluster = cluster
        self._folder = folder
        self._runs = 0
        self.answered = 0
        self.failures: dict[str, int] = {}

    @asynccontextmanager
    async def going_on(self, *arguments: str) -> AsyncIterator[None]:
        """While the block runs; what is under way at its end is waited for."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._go_on(over, arguments))
            try:
                yield
            finally:
                over.set()

    async def _go_on(self, over: asyncio.Event, arguments: tuple[str, ...]) -> None:
        while not over.is_set():
            self._runs += 1
            file = self._folder / f"load-{self._runs}.json"
            command = (sys.executable, "-m", "segue.cli", "loadtest", self._cluster.grpc_address, "--api", "grpc")
            with (self._folder / "loadtest.log").open("a") as log:
                process = await asyncio.create_subprocess_exec(
                    *command, *arguments, "--seed", str(self._runs), "--json", str(file), stdout=log, stderr=log
                )
                await process.wait()
            total = (await asyncio.to_thread(read_result, file)).summary.total
            self.answered += total.answered
            for why, times in total.failures.items():
                self.failures[why] = self.failures.get(why, 0) + times


async def test_pools_out_of_a_budget_grow_under_load_and_shrink_behind_it_and_no_request_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pools_port = choose_ports("127.0.0.1").http
    figures = [word for name, value in (FIGURES | PACE).items() for word in ("--scaling-setting", f"{name}={value}")]
    arguments = ("--scaling", "act", "--gpu-budget", str(BUDGET), *figures, "--pools-port", str(pools_port))
    arguments += ("--drain-timeout", "300", "--max-queue-s", "300", "--engine-arg", "dtype=float32")
    seen: list[tuple[int, ...]] = []
    with running_cluster(tmp_path, *arguments, startup_s=STARTUP_S) as cluster:
        async with find_pools(f"127.0.0.1:{pools_port}").stub() as stub:

            async def until(holds: Callable[[PoolsView], bool]) -> None:
                """Until the pools are so, noting what they are in between."""
                async for state in stub.Watch(WatchPoolsRequest()):
                    view = view_of(state)
                    if (now := tuple(len(pool.workers) for pool in view.pools)) not in seen[-1:]:
                        seen.append(now)
                    if holds(view):
                        return

            load = LoadTests(cluster, tmp_path)
            async with load.going_on(*HEAVY):
                await until(lambda view: sum(map(registered, view.pools)) == BUDGET)
            async with load.going_on(*LIGHT):
                await until(lambda view: [len(pool.workers) for pool in view.pools] == [1, 1])
    decisions = [line for line in cluster.output().splitlines() if line.startswith("scaling ")]
    with capsys.disabled():
        print(f"\n{load.answered} answered; pools {seen}", *decisions, sep="\n")
    assert load.failures == {}
    assert load.answered > 0
    assert max(map(sum, seen)) <= BUDGET, "those that drain hold their place in the budget, too"


def registered(pool: PoolView) -> int:
    """How many of its workers have told routers of themselves: those take requests, or will in a moment."""
    return sum(worker.phase == "running" and bool(worker.epoch) for worker in pool.workers)
