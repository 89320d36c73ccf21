"""What ``segue up`` and ``segue demo`` share: a local cluster around one coroutine, with signals and failures
told."""

from __future__ import annotations

import asyncio
import signal
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import typer
from rich.console import Console

from segue.cli.display import StartupDisplay, tell_died, tell_event
from segue.cli.failures import fail
from segue.cluster.local import LocalCluster, run_local, this_machine
from segue.cluster.readiness import NotReadyInTime, wait_until_ready
from segue.cluster.restarts import RestartPolicy
from segue.cluster.supervisor import ProcessDied, Supervised

_MOST_SHOWN = 20  # Workers, one by one, while they start.
_STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Run:
    """One run of a local cluster: what, how deaths are met, and how long starting may take."""

    cluster: LocalCluster
    policy: RestartPolicy
    startup_timeout_s: float


@dataclass
class _Signals:
    """First signal cancels the run, which then stops every process; the second kills them at once."""

    task: asyncio.Task[None]
    received: signal.Signals | None = None
    supervised: Supervised | None = None

    def handle(self, signum: signal.Signals) -> None:
        if self.received is None:
            self.received = signum
            self.task.cancel()
        elif self.supervised is not None:
            self.supervised.kill_all()


def run_cluster(run: Run, console: Console, body: Callable[[], Awaitable[None]]) -> signal.Signals | None:
    """Start the cluster, wait until it is ready, run ``body``, stop everything.

    Returns the signal that ended it, if one did. Raises typer.Exit(1), after telling why, when a process died
    or the cluster didn't get ready; what ``body`` raises comes out as it is.
    """
    try:
        return asyncio.run(_run(run, console, body))
    except ProcessDied as error:
        tell_died(Console(stderr=True), error)
        raise typer.Exit(1) from None
    except NotReadyInTime as error:
        raise fail(f"{error} (in {run.cluster.run_dir})") from None


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
    prefill, decode = cluster.prefill.workers, cluster.decode.workers
    workers = [*(f"prefill-{n}" for n in range(prefill)), *(f"decode-{n}" for n in range(decode))]
    names = ["router", *workers] if len(workers) <= _MOST_SHOWN else ["router"]
    async with run_local(
        cluster, this_machine(), run.policy, lambda event: tell_event(console, event)
    ) as signals.supervised:
        with StartupDisplay(console, names) as display:
            await wait_until_ready(cluster.http, prefill, decode, run.startup_timeout_s, display.update)
        await body()
        if signals.received is None:
            console.print("stopping", style="dim")


def new_run_dir(given: Path | None) -> Path:
    """The folder for log files: the given one, made if need be, or a fresh temporary one."""
    if given is None:
        return Path(tempfile.mkdtemp(prefix="segue-"))
    given.mkdir(parents=True, exist_ok=True)
    return given
