"""A cluster as a user starts it: the ``segue`` command in a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc

from segue.proto.worker_pb2 import DescribeRequest, DescribeResponse
from segue.proto.worker_pb2_grpc import WorkerStub

_READY = re.compile(r"ready: (http://\S+)/v1 \(model (\S+)\), gRPC (\S+:\d+)\.")
_STARTUP_S = 120.0


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
            return WorkerStub(channel).Describe(DescribeRequest(), timeout=5)


def worker_address(log_file: Path) -> str:
    found = re.search(r'"address":\s*"([^"]+)"', log_file.read_text())
    assert found is not None, f"{log_file} names no address"
    return found[1]


@contextmanager
def running_cluster(log_dir: Path, *arguments: str) -> Iterator[Cluster]:
    """``segue up`` with these arguments, ready; stopped with SIGINT afterwards."""
    command = [sys.executable, "-m", "segue.cli", "up", "--log-dir", str(log_dir), *arguments]
    output = log_dir / "up.log"
    with output.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, text=True)
    try:
        deadline_s = time.monotonic() + _STARTUP_S
        while not (ready := _READY.search(output.read_text())):
            assert process.poll() is None, f"segue up ended with {process.returncode}:\n{output.read_text()}"
            assert time.monotonic() < deadline_s, f"not ready in {_STARTUP_S:g} s:\n{output.read_text()}"
            time.sleep(0.1)
        yield Cluster(process, ready[1], ready[2], ready[3], log_dir)
    finally:
        process.terminate()
        try:
            process.wait(30)
        finally:
            process.kill()
