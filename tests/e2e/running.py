"""A cluster as a user starts it: the ``segue`` command in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from segue.proto.worker_pb2 import DescribeRequest, DescribeResponse
from segue.proto.worker_pb2_grpc import WorkerStub

_READY = re.compile(r"ready: (https?://\S+)/v1 \(model (\S+)\), gRPC (\S+:\d+)\.")
_STARTUP_S = 200.0
WORKERS = ("prefill-0", "decode-0")

# For what doesn't depend on the transport: the shared cluster of the one that starts fastest.
ONE_CLUSTER = pytest.mark.parametrize("cluster", ["grpc"], indirect=True)


@dataclass(frozen=True)
class Cluster:
    process: subprocess.Popen[str]
    http_url: str
    model: str
    grpc_address: str
    log_dir: Path

    def describe(self, worker_id: str) -> DescribeResponse:
        """What the worker says of itself, asked at its own gRPC port."""
        address = worker_address(self.log_dir / f"{worker_id}.log")
        with grpc.insecure_channel(address) as channel:
            return WorkerStub(channel).Describe(DescribeRequest(), timeout=30)

    def output(self) -> str:
        """What ``segue up`` has printed."""
        return (self.log_dir / "up.log").read_text()


def worker_address(log_file: Path) -> str:
    """Of the worker's latest life: a restarted one goes on in the same log."""
    found = re.findall(r'"address":\s*"([^"]+)"', log_file.read_text())
    assert found, f"{log_file} names no address"
    return str(found[-1])


def busy(cluster: Cluster, workers: Sequence[str] = WORKERS) -> list[str]:
    """What keeps these workers from their baseline: requests, offers, blocks."""
    problems = []
    for worker_id in workers:
        seen = cluster.describe(worker_id)
        load, blocks = seen.load, seen.status.facts.kv_blocks
        held = {name: getattr(load, name) for name in ("running_requests", "waiting_requests", "held_offers")}
        problems += [f"{worker_id}: {name} is {count}" for name, count in held.items() if count]
        if load.free_blocks != blocks:
            problems.append(f"{worker_id}: {load.free_blocks} of {blocks} blocks are free")
    return problems


def assert_baseline(cluster: Cluster, within_s: float = 15.0, workers: Sequence[str] = WORKERS) -> None:
    """Both pools hold nothing, at the latest after ``within_s``."""
    deadline_s = time.monotonic() + within_s
    while problems := busy(cluster, workers):
        assert time.monotonic() < deadline_s, f"after {within_s:g} s: {'; '.join(problems)}"
        time.sleep(0.05)


@contextmanager
def launched(log_dir: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """``segue`` with these arguments, its output in ``up.log``; stopped with SIGTERM afterwards if it still runs."""
    with (log_dir / "up.log").open("w") as sink:
        command = [sys.executable, "-m", "segue.cli", *arguments]
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, text=True)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()


@contextmanager
def running_cluster(log_dir: Path, *arguments: str, startup_s: float = _STARTUP_S) -> Iterator[Cluster]:
    """``segue up`` with these arguments, ready; stopped with SIGTERM afterwards.

    Every request is handed off: which of the two ways is faster is not what these tests ask. Nor is how soon: on a busy
    machine nothing is to be refused for its first token's sake.
    """
    patient = ("--max-queue-s", "60", "--slo-class", "chat=ttft_s:60,tokens_per_s:1")
    startup = ("--startup-timeout", f"{max(startup_s, 300.0):g}")
    arguments = ("--disaggregation", "always", *patient, *startup, *arguments)
    output = log_dir / "up.log"
    with launched(log_dir, "up", "--log-dir", str(log_dir), *arguments) as process:
        deadline_s = time.monotonic() + startup_s
        while not (ready := _READY.search(output.read_text())):
            assert process.poll() is None, f"segue up ended with {process.returncode}:\n{output.read_text()}"
            assert time.monotonic() < deadline_s, f"not ready in {startup_s:g} s:\n{output.read_text()}"
            time.sleep(0.1)
        yield Cluster(process, ready[1], ready[2], ready[3], log_dir)
