"""How a starting cluster is shown: a live table on a terminal, one line per change elsewhere."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table

from segue.cluster.readiness import Readiness
from segue.cluster.restarts import Death
from segue.cluster.supervisor import Event, ProcessDied, Restarting, Stopped

_DONE = "ready"


class StartupDisplay:
    """Follows the processes, by name, until all are ready. Use it as a context manager."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self._console = console
        self._states = dict.fromkeys(names, "starting")
        self._details = dict.fromkeys(names, "")
        self._started_s = console.get_time()
        self._since_s = dict.fromkeys(names, 0.0)
        self._spinners = {name: Spinner("dots") for name in names}
        self._live = Live(console=console, refresh_per_second=8, get_renderable=self._table)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def update(self, readiness: Readiness) -> None:
        """Show one answer of the router."""
        if readiness.reachable:
            self._set("router", _DONE, "")
        for worker in readiness.workers:
            self._set(worker.worker_id, worker.state, worker.detail)

    def _set(self, name: str, state: str, detail: str) -> None:
        if name not in self._states:
            return
        changed = self._states[name] != state
        self._states[name], self._details[name] = state, detail if state != _DONE else ""
        if not changed:
            return
        self._since_s[name] = self._console.get_time() - self._started_s
        if not self._console.is_terminal:
            words = f"{self._since_s[name]:6.1f} s  {name:<12} {state}" + (f": {detail}" if self._details[name] else "")
            self._console.print(words, markup=False, highlight=False, soft_wrap=True)

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 2))
        now_s = self._console.get_time() - self._started_s
        for name, state in self._states.items():
            done = state == _DONE
            mark = "[green]✓[/green]" if done else self._spinners[name]
            taken_s = self._since_s[name] if done else now_s
            table.add_row(mark, name, state, f"[dim]{taken_s:.1f} s[/dim]", f"[dim]{self._details[name]}[/dim]")
        return table


def tell_event(console: Console, event: Event) -> None:
    """Print what the user should know of an event: restarts and why, and who had to be killed at the end."""
    if isinstance(event, Stopped) and event.death is not None and event.death.returncode == -signal.SIGKILL:
        console.print(f"{event.name} did not stop when asked and was killed", markup=False, highlight=False)
    if isinstance(event, Restarting):
        tell_death(console, event.name, event.death, event.last_lines)
        console.print(
            f"{event.name} starts again in {event.pause_s:g} s", markup=False, highlight=False, soft_wrap=True
        )


def tell_died(console: Console, error: ProcessDied) -> None:
    """Print which process ended the cluster, how, and what it said last."""
    tell_death(console, error.spec.name, error.death, error.last_lines)
    console.print(
        f"stopping the others: {error.reason}\nlog file: {error.spec.log_path}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def tell_death(console: Console, name: str, death: Death, last_lines: Sequence[str]) -> None:
    """Print one death and the last lines of its log."""
    console.print(f"{name} {death}", style="bold red", markup=False, highlight=False, soft_wrap=True)
    if last_lines:
        console.print("its last lines:", markup=False)
    for line in last_lines:
        console.print(f"  | {line}", style="dim", markup=False, highlight=False, soft_wrap=True)
