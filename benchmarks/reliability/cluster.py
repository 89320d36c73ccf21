"""A cluster as a user starts it, `segue up`, and what its processes say of themselves."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import psutil
from comparison.servers import Server, free_ports, stop_all

from segue.proto.worker_pb2 import DescribeRequest, DescribeResponse
from segue.proto.worker_pb2_grpc import WorkerStub

_STOP_PATIENCE_S = 30.0
_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


@dataclass(frozen=True)
class Cluster:
    """A running `segue up`. ``workers`` are the worker ids, prefill first."""

    http_url: str
    grpc_address: str
    model: str
    log_dir: Path
    workers: tuple[str, ...]
    supervisor_pid: int

    def pids(self) -> dict[str, int]:
        """The processes that live now, by name: `router` and the worker ids."""
        found = {}
        for process in psutil.Process(self.supervisor_pid).children():
            try:
                command = process.cmdline()
            except psutil.Error:
                continue
            if "router" in command[:4]:
                found["router"] = process.pid
            elif "--worker-id" in command:
                found[command[command.index("--worker-id") + 1]] = process.pid
        return found

    def describe(self, worker_id: str, timeout_s: float = 5.0) -> DescribeResponse:
        """What a worker says of itself now. Raises grpc.RpcError, or LookupError before it listens."""
        # A restarted worker goes on in the same log at a new address.
        log = (self.log_dir / f"{worker_id}.log").read_text(errors="replace")
        addresses = re.findall(r'"?address"?[=:]\s*"?([\w.]+:\d+)', log)
        if not addresses:
            raise LookupError(f"{worker_id} has not listened yet")
        with grpc.insecure_channel(addresses[-1]) as channel:
            return WorkerStub(channel).Describe(DescribeRequest(), timeout=timeout_s)

    def leftovers(self) -> list[str]:
        """What keeps the workers from their baseline, by the engines' own count: requests, offers, blocks."""
        left = []
        for worker_id in self.workers:
            try:
                seen = self.describe(worker_id)
            except (grpc.RpcError, LookupError) as error:
                left.append(f"{worker_id} doesn't answer: {error!r:.200}")
                continue
            load, blocks = seen.load, seen.status.facts.kv_blocks
            held = {name: getattr(load, name) for name in ("running_requests", "waiting_requests", "held_offers")}
            left += [f"{worker_id}: {name} is {count}" for name, count in held.items() if count]
            if load.free_blocks != blocks:
                left.append(f"{worker_id}: {load.free_blocks} of {blocks} blocks are free")
        return left

    def settle(self, within_s: float) -> list[str]:
        """Wait until nothing is left over; what still is after ``within_s``."""
        deadline_s = time.monotonic() + within_s
        while (left := self.leftovers()) and time.monotonic() < deadline_s:
            time.sleep(0.2)
        return left


@contextmanager
def segue_up(model: Path, log_dir: Path, args: Sequence[str], pools: tuple[int, int] = (1, 1)) -> Iterator[Cluster]:
    """`segue up` with so many prefill and decode workers and these further arguments, ready; ended afterwards.

    Raises ServerFailedError when it doesn't get ready.
    """
    log_dir.mkdir(parents=True, exist_ok=True)
    for old in log_dir.glob("*.log"):
        old.unlink()
    http_port, grpc_port = free_ports(2)
    prefill, decode = pools
    command = [
        *(sys.executable, "-m", "segue.cli", "up", "--model", str(model), "--log-dir", str(log_dir)),
        *("--disaggregation", "always"),
        *("--prefill", str(prefill), "--decode", str(decode)),
        *("--port", str(http_port), "--grpc-port", str(grpc_port)),
        *args,
    ]
    server = Server("segue up", command, _ENVIRONMENT, log_dir / "up.log")
    url = f"http://127.0.0.1:{http_port}"
    workers = [f"{role}-{n}" for role, count in (("prefill", prefill), ("decode", decode)) for n in range(count)]
    try:
        server.wait_ready(f"{url}/readyz", time.monotonic() + 240)
        cluster = Cluster(url, f"127.0.0.1:{grpc_port}", model.name, log_dir, tuple(workers), server.pid)
        _wait_for_all(cluster, time.monotonic() + 240)
        yield cluster
    finally:
        stop_all([server], _STOP_PATIENCE_S)


def _wait_for_all(cluster: Cluster, deadline_s: float) -> None:
    """The router is ready with one worker of each pool; here all are to be."""
    while left := cluster.leftovers():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"the workers are not all ready: {left}; logs are in {cluster.log_dir}")
        time.sleep(0.2)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used since its start."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def prefer(pid: int) -> bool:
    """Let a process, and what it starts from now on, go before others; False if this user may not.

    Where Linux groups processes by session (autogroup), niceness counts within a session only, and the session's own
    among the others.
    """
    try:
        os.setpriority(os.PRIO_PROCESS, pid, -10)
        with contextlib.suppress(FileNotFoundError):
            Path(f"/proc/{pid}/autogroup").write_text("-5")
    except OSError:
        return False
    return True
