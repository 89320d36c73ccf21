"""Living and dying as one of several processes, with real ones."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="prctl and /proc")

CHILD = """
import os, sys, time
from segue.base.process import die_with_parent
die_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(600)
"""

PARENT = f"""
import os, subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {CHILD!r}, str(os.getpid())])
time.sleep(600)
"""

DRAINS = """
import asyncio
from segue.base.process import on_stop_signals

async def main():
    drained = asyncio.Event()
    def drain():
        print("draining", flush=True)
    on_stop_signals(asyncio.get_running_loop(), drain)
    print("up", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""

EXITS = """
import multiprocessing, threading, time
from segue.base.process import exit_now
if __name__ == "__main__":
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
    child.start()
    threading.Thread(target=time.sleep, args=(600,)).start()
    print(child.pid, end=" ")
    exit_now(7)
"""


@contextmanager
def python(code: str, *args: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_gone(pid: int) -> None:
    until_s = time.monotonic() + 60
    while is_running(pid):
        assert time.monotonic() < until_s, f"process {pid} is still running"
        time.sleep(0.01)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_child_dies_with_its_parent(signum: signal.Signals) -> None:
    with python(PARENT) as parent:
        child_pid = int(line_of(parent))
        assert is_running(child_pid)
        parent.send_signal(signum)
        parent.wait(60)
        wait_gone(child_pid)


def test_a_child_whose_parent_is_gone_already_exits_at_once() -> None:
    """Its parent died before it asked: it has been handed to another process."""
    with python(CHILD, "1" if os.getpid() != 1 else "2") as child:
        assert child.wait(60) == 1


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains_and_the_second_exits(first: signal.Signals, second: signal.Signals) -> None:
    with python(DRAINS) as process:
        assert line_of(process) == "up"
        process.send_signal(first)
        assert line_of(process) == "draining"
        assert process.poll() is None
        process.send_signal(second)
        assert process.wait(60) == 128 + second


def test_exit_now_waits_for_no_thread_and_leaves_no_child() -> None:
    with python(EXITS) as process:
        assert process.wait(60) == 7
        wait_gone(int(line_of(process)))
