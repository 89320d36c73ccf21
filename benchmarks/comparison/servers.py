"""Start a server process, wait until it answers, end it and everything it started."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

_LOG_TAIL_LINES = 40
_PR_SET_PDEATHSIG = 1
# Looked up here: between fork and exec is no place to load a library.
_prctl = ctypes.CDLL(None).prctl


class ServerFailedError(RuntimeError):
    """A server ended, or did not become ready in time. The message holds the end of its log."""


def free_ports(count: int) -> list[int]:
    """``count`` different TCP ports free on 127.0.0.1 at the moment of asking."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]
    finally:
        for sock in sockets:
            sock.close()


class Server:
    """One server process and its log. ``stop_all`` ends it, or the kernel should this process die."""

    def __init__(self, name: str, command: Sequence[str], env: Mapping[str, str], log_file: Path) -> None:
        """Start ``command`` with ``env`` added to this process's environment."""
        self.name = name
        self._log_file = log_file
        self._family: list[psutil.Process] = []
        with log_file.open("wb") as log:
            # A session of its own keeps Ctrl-C from reaching the server before this process ends it in order.
            self._process = subprocess.Popen(
                list(command),
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,  # noqa: PLW1509 (servers are started while there is one thread)
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_ready(self, url: str, deadline_s: float) -> None:
        """Return once ``url`` answers 200; ``deadline_s`` is a time of ``time.monotonic``.

        Raises ``ServerFailedError`` when the process ends first or the deadline passes.
        """
        while time.monotonic() < deadline_s:
            if self._process.poll() is not None:
                raise ServerFailedError(
                    f"{self.name} ended with status {self._process.returncode} before {url} answered 200.\n"
                    f"{self._tail()}"
                )
            if _answers_200(url):
                return
            time.sleep(0.25)
        raise ServerFailedError(f"{self.name} did not answer 200 on {url} in time.\n{self._tail()}")

    def check_alive(self) -> None:
        """Raise ``ServerFailedError`` if the process has ended."""
        if self._process.poll() is not None:
            raise ServerFailedError(f"{self.name} ended with status {self._process.returncode}.\n{self._tail()}")

    def pin(self, process_name: str, core: int) -> None:
        """Bind every thread of the descendants whose title starts with ``process_name`` to one core.

        Raises ``ServerFailedError`` when there is no such descendant.
        """
        found = [p for p in _descendants(self._process.pid) if " ".join(p.cmdline()).startswith(process_name)]
        if not found:
            raise ServerFailedError(f"{self.name} runs no process called {process_name}.\n{self._tail()}")
        for process in found:
            for thread in process.threads():
                # One that has ended since needs no core.
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, {core})

    def ask_to_stop(self) -> None:
        """Send SIGTERM and remember the process's family, for ``reap`` to end what is left of it."""
        if self._process.poll() is None:
            self._family = _descendants(self._process.pid)
            self._process.send_signal(signal.SIGTERM)

    def reap(self, deadline_s: float) -> None:
        """Wait for the process until ``deadline_s`` (of ``time.monotonic``), then kill what is left of it."""
        try:
            self._process.wait(timeout=max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(timeout=10)
        # psutil tells a process from a later one with the same number by its start time.
        _, left = psutil.wait_procs(self._family, timeout=2)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=10)

    def _tail(self) -> str:
        lines = self._log_file.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return "\n".join([f"The last lines of {self._log_file}:", *lines])


def _end_with_parent() -> None:
    """Have the kernel send this process SIGTERM when its parent dies, however that comes about.

    Not SIGKILL: a vLLM API server killed outright leaves its engine and worker processes behind, spinning.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def stop_all(servers: Sequence[Server], patience_s: float) -> None:
    """End the servers together, the last started one asked first; those that take longer are killed."""
    for server in reversed(servers):
        server.ask_to_stop()
    deadline_s = time.monotonic() + patience_s
    for server in servers:
        server.reap(deadline_s)


def _descendants(pid: int) -> list[psutil.Process]:
    """Every process started by ``pid`` and those it started, without ``pid`` itself."""
    try:
        return list(psutil.Process(pid).children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def _answers_200(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, OSError):
        return False
