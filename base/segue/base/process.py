"""Living and dying as one process of several."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import NoReturn

_PR_SET_PDEATHSIG = 1
_YOUNG_OBJECTS = 10_000  # Python's own 700 are a few requests'.


def die_with_parent(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies, and exit at once if that has happened already.

    ``parent_pid`` is the parent's own word for itself: a parent that died before this call shows by this process
    having been handed to another one. Linux only (``prctl(2)``); elsewhere it does nothing.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def end_with_parent_process() -> None:
    """In a process of ``multiprocessing``: kill it when the one that started it has ended, however that came.

    Elsewhere it does nothing. For what libraries start inside our processes: the kernel's way, as in
    :func:`die_with_parent`, would take the end of the thread that started it for the parent's.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()


def exit_now(status: int) -> NoReturn:
    """End this process and what it started with ``multiprocessing``, waiting for no thread and running no cleanup."""
    for child in multiprocessing.active_children():
        child.kill()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def collect_seldom() -> None:
    """Have the garbage collector leave alone what there is now, and look less often at what comes.

    For a server that is set up: what it is made of stays to its end, and to look through all of it holds up every
    stream. Nearly all that a request makes is freed without the collector.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, *gc.get_threshold()[1:])


def on_stop_signals(loop: asyncio.AbstractEventLoop, drain: Callable[[], None]) -> None:
    """First SIGTERM or SIGINT calls ``drain``; the second ends the process at once, with status 128 + signal."""
    seen = 0

    def handle(signum: int) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            drain()
        else:
            exit_now(128 + signum)

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, handle, signum)
