"""What runs under a process, seen from outside, through /proc."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple


class Process(NamedTuple):
    """One life: a process id may be given again, its start time (clock ticks since boot) tells them apart."""

    pid: int
    started_ticks: int
    command: tuple[str, ...]

    def runs(self) -> bool:
        """Zombies don't: they are over, and only their parent hasn't looked yet."""
        stat = _stat(self.pid)
        return stat is not None and stat[0] != "Z" and int(stat[19]) == self.started_ticks


def tree(root_pid: int) -> list[Process]:
    """The process and all below it."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (stat := _stat(int(entry.name))) is not None:
            children.setdefault(int(stat[1]), []).append(int(entry.name))
    found: list[Process] = []
    waiting = [root_pid]
    while waiting:
        pid = waiting.pop()
        stat = _stat(pid)
        if stat is not None:
            found.append(Process(pid, int(stat[19]), _command(pid)))
        waiting += children.get(pid, [])
    return found


def named(processes: Iterable[Process], name: str) -> Process:
    """The cluster's process of this name: ``router`` or a worker's id."""
    (process,) = (
        one
        for one in processes
        if name in one.command
        and ("--worker-id" in one.command or (name == "router" and "--worker-port" in one.command))
    )
    return process


def assert_gone(processes: Iterable[Process], within_s: float = 60.0) -> None:
    """None of them runs, at the latest after ``within_s``; those that do are killed, so that they end with the test."""
    deadline_s = time.monotonic() + within_s
    while left := [process for process in processes if process.runs()]:
        if time.monotonic() > deadline_s:
            for process in left:
                os.kill(process.pid, signal.SIGKILL)
            raise AssertionError(f"still running after {within_s:g} s: {left}")
        time.sleep(0.05)


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third (state) on; None if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None


def _command(pid: int) -> tuple[str, ...]:
    try:
        return tuple(Path(f"/proc/{pid}/cmdline").read_text().split("\0"))
    except (FileNotFoundError, ProcessLookupError):
        return ()
