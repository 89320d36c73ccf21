"""One process of the cluster under test."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from segue.proto.worker_pb2 import DescribeRequest, DescribeResponse, WorkerState
from segue.proto.worker_pb2_grpc import WorkerStub

START_S = 120.0
LOADING = (WorkerState.WORKER_STATE_LOADING, WorkerState.WORKER_STATE_WARMING)
_LISTENING = re.compile(r'"address":\s*"([^"]+)".*"event":\s*"listening"')


@dataclass
class Member:
    """One process of the cluster. ``address`` is where it describes itself; empty for a router."""

    name: str
    argv: Sequence[str]
    environment: dict[str, str]
    log: Path
    process: subprocess.Popen[bytes] | None = None
    log_start_bytes: int = 0
    stopped: bool = field(default=False)  # By SIGSTOP.
    loaded: bool = field(default=False)  # As far as it was asked: what has not loaded yet holds nothing.

    def start(self) -> None:
        with self.log.open("ab") as sink:
            self.log_start_bytes = sink.seek(0, os.SEEK_END)
            self.process = subprocess.Popen(self.argv, env=self.environment, stdout=sink, stderr=sink)
        self.stopped = self.loaded = False

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self, signum: signal.Signals) -> None:
        if self.alive and self.process is not None:
            self.process.send_signal(signum)
            if signum in {signal.SIGSTOP, signal.SIGCONT}:
                self.stopped = signum is signal.SIGSTOP

    def kill(self) -> None:
        """SIGKILL, and over when this returns."""
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)

    def said(self) -> str:
        """What this life has logged."""
        with self.log.open("rb") as file:
            file.seek(self.log_start_bytes)
            return file.read().decode(errors="replace")

    def describe(self) -> DescribeResponse | None:
        """What the worker says of itself at its own port; None while it has none."""
        found = _LISTENING.search(self.said())
        if found is None or not self.alive:
            return None
        with grpc.insecure_channel(found[1]) as channel:
            try:
                seen = WorkerStub(channel).Describe(DescribeRequest(), timeout=5)
            except grpc.RpcError:
                return None
        self.loaded = self.loaded or seen.status.state not in LOADING
        return seen

    @property
    def leaves(self) -> bool:
        """Whether it has said that it has nothing left; its port closes any moment then."""
        return '"event": "leaving"' in self.said()

    @property
    def ready(self) -> bool:
        """Whether it takes requests."""
        seen = self.describe()
        return seen is not None and seen.status.state == WorkerState.WORKER_STATE_READY

    def wait_ready(self) -> None:
        """Until it takes requests. Raises AssertionError if it ends instead."""
        wait_until(lambda: self.ready or not self.alive, START_S, f"{self.name} is not ready")
        assert self.alive, f"{self.name} ended while it started:\n{self.said()[-2000:]}"


def wait_until(condition: Callable[[], bool], within_s: float, problem: str) -> None:
    until_s = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until_s, f"{problem} after {within_s:g} s"
        time.sleep(0.05)
