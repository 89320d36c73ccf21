"""What ``segue up`` and ``segue demo`` share: a local cluster around one coroutine, with signals and failures
told."""

from __future__ import annotations

import asyncio
import os
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from segue.base.errors import SettingsError
from segue.base.logging import setup_logging
from segue.cli.display import StartupDisplay, tell_died, tell_event
from segue.cli.failures import fail
from segue.cluster.autoscaling.autoscaler import autoscaling
from segue.cluster.autoscaling.fleet_watch import FleetWatch
from segue.cluster.autoscaling.settings import AutoscalerSettings
from segue.cluster.local import LocalCluster, this_machine
from segue.cluster.local_pools import LocalPools, run_local
from segue.cluster.manager import serve_pools
from segue.cluster.pools import Pools
from segue.cluster.pools_access import PoolsGuard, new_token
from segue.cluster.readiness import NotReadyInTime, wait_until_ready
from segue.cluster.restarts import CONFIGURATION_STATUS, RestartPolicy
from segue.cluster.run_files import RunFile, announced
from segue.cluster.supervisor import ProcessDied

_MOST_SHOWN = 20  # Workers, one by one, while they start.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Run:
    """One run of a local cluster: what, how deaths are met, and how long starting may take.

    ``pools_port`` is where its pools may be scaled, 0 any free one; None: nowhere, and nothing scales them.
    """

    cluster: LocalCluster
    policy: RestartPolicy
    startup_timeout_s: float
    pools_port: int | None = None
    scaling: AutoscalerSettings | None = None


@dataclass
class _Signals:
    """First signal cancels the run, which then stops every process; the second kills them at once."""

    task: asyncio.Task[None]
    received: signal.Signals | None = None
    pools: LocalPools | None = None

    def handle(self, signum: signal.Signals) -> None:
        if self.received is None:
            self.received = signum
            self.task.cancel()
        elif self.pools is not None:
            self.pools.kill_all()


def run_cluster(run: Run, console: Console, body: Callable[[], Awaitable[None]]) -> signal.Signals | None:
    """Start the cluster, wait until it is ready, run ``body``, stop everything.

    Returns the signal that ended it, if one did. Raises typer.Exit(1), after telling why, when a process died
    or the cluster didn't get ready, typer.Exit(2) if its pools' port can't be had; what ``body`` raises comes out as
    it is.
    """
    try:
        return asyncio.run(_run(run, console, body))
    except ProcessDied as error:
        tell_died(Console(stderr=True), error)
        raise typer.Exit(1) from None
    except NotReadyInTime as error:
        raise fail(f"{error} (in {run.cluster.run_dir})") from None
    except SettingsError as error:
        raise fail(str(error), CONFIGURATION_STATUS) from None


async def _run(run: Run, console: Console, body: Callable[[], Awaitable[None]]) -> signal.Signals | None:
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    signals = _Signals(task)
    for signum in _STOP_SIGNALS:
        loop.add_signal_handler(signum, signals.handle, signum)
    try:
        await _run_ready(run, console, body, signals)
    except asyncio.CancelledError:
        if signals.received is None:
            raise
    return signals.received


async def _run_ready(run: Run, console: Console, body: Callable[[], Awaitable[None]], signals: _Signals) -> None:
    cluster = run.cluster
    prefill, decode = cluster.workers_of("prefill"), cluster.workers_of("decode")
    workers = [worker.name for worker in cluster.workers()]
    names = ["router", *workers] if len(workers) <= _MOST_SHOWN else ["router"]
    watch = FleetWatch(cluster.router_addresses, cluster.mesh_tls)
    async with run_local(
        cluster, this_machine(), run.policy, lambda event: tell_event(console, event), watch.work
    ) as signals.pools:
        with StartupDisplay(console, names) as display:
            await wait_until_ready(cluster.http, prefill, decode, run.startup_timeout_s, display.update)
        async with _scaled(run, signals.pools, watch, console) as pools, _manager(run, pools):
            await body()
        if signals.received is None:
            console.print("stopping", style="dim")


@asynccontextmanager
async def _scaled(run: Run, pools: LocalPools, watch: FleetWatch, console: Console) -> AsyncIterator[Pools]:
    """The pools as people may see and change them, while the policy does what it was told to do."""
    if run.scaling is None:
        yield pools
        return
    with (run.cluster.run_dir / "scaling.log").open("a") as log:
        setup_logging("json", stream=log)

        def say(line: str) -> None:
            console.print(line, markup=False, highlight=False, soft_wrap=True)

        async with autoscaling(run.scaling, pools, watch, say) as scaled:
            yield scaled


@asynccontextmanager
async def _manager(run: Run, pools: Pools) -> AsyncIterator[None]:
    """The pools' port, and a file in which ``segue scale`` finds it."""
    if run.pools_port is None:
        yield
        return
    cluster = run.cluster
    guard = PoolsGuard(token=new_token()) if cluster.certs is None else PoolsGuard(cluster.mesh_tls)
    async with serve_pools(pools, port=run.pools_port, guard=guard) as address:
        here = RunFile(
            pid=os.getpid(),
            pools=address,
            http_url=cluster.http_url,
            grpc=f"{cluster.host}:{cluster.ports.grpc}",
            run_dir=str(cluster.run_dir),
            certs="" if cluster.certs is None else str(cluster.certs.resolve()),
            token=guard.token,
        )
        with announced(here):
            yield


def new_run_dir(given: Path | None) -> Path:
    """The folder for log files: the given one, made if need be, or a fresh temporary one."""
    if given is None:
        return Path(tempfile.mkdtemp(prefix="segue-"))
    given.mkdir(parents=True, exist_ok=True)
    return given
