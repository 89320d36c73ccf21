"""The soak's cluster: what `segue up --on-death restart` runs, with a link that can fail before each producer."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
from comparison.servers import free_ports
from reliability.link import Link

from segue.cluster.local import LocalCluster, PoolSettings, process_specs, this_machine
from segue.cluster.ports import choose_ports
from segue.cluster.restarts import RestartPolicy
from segue.cluster.supervisor import Event, Restarting, Started, Supervised, supervise
from segue.proto.worker_pb2 import DescribeRequest, DescribeResponse, WorkerState
from segue.proto.worker_pb2_grpc import WorkerStub

PREFILL, DECODE = ("prefill-0", "prefill-1"), ("decode-0", "decode-1")
WORKERS = PREFILL + DECODE
# Nothing is refused because a fault made it late: every answer is to be compared.
PATIENT = ("--max-queue-s", "60", "--slo-class", "chat=ttft_s:60,tokens_per_s:1")
LEASE_S = 5.0
_ADDRESS = re.compile(r'"?address"?[=:]\s*"?([\w.]+:\d+)')


class SoakCluster:
    """Two prefill and two decode workers behind a router; the dead are started again."""

    def __init__(self, settings: LocalCluster, links: dict[str, Link], supervised: Supervised, lives: Lives) -> None:
        self.http_url = settings.http_url
        self.grpc_address = f"127.0.0.1:{settings.ports.grpc}"
        self.links = links
        self.lives = lives
        self._run_dir = settings.run_dir
        self._supervised = supervised

    def pid(self, name: str) -> int | None:
        child = self._supervised.children.get(name)
        return None if child is None or child.has_ended() else child.pid

    def pids(self) -> dict[str, int]:
        return {name: pid for name in ("router", *WORKERS) if (pid := self.pid(name)) is not None}

    async def describe(self, worker_id: str) -> DescribeResponse | None:
        """What a worker says of itself; None while it can't."""
        pid, log = self.pid(worker_id), self._run_dir / f"{worker_id}.log"
        if not log.exists():  # Its process is not started yet.
            return None
        with log.open("rb") as file:
            file.seek(self.lives.log_start_bytes.get(worker_id, 0))
            addresses = _ADDRESS.findall(file.read(1 << 16).decode(errors="replace"))
        if pid is None or not addresses:
            return None
        async with grpc.aio.insecure_channel(addresses[0]) as channel:
            try:
                return await WorkerStub(channel).Describe(DescribeRequest(), timeout=3)
            except grpc.aio.AioRpcError:
                return None

    async def ready(self, worker_ids: tuple[str, ...]) -> bool:
        seen = await asyncio.gather(*map(self.describe, worker_ids))
        return all(one is not None and one.status.state == WorkerState.WORKER_STATE_READY for one in seen)

    async def wait_ready(self, within_s: float) -> bool:
        """Until all workers take work; False if that didn't come."""
        deadline_s = time.monotonic() + within_s
        while not await self.ready(WORKERS):
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(0.5)
        return True

    async def leftovers(self) -> list[str]:
        """What keeps the workers from their baseline, by their engines' own count."""
        left = []
        for worker_id in WORKERS:
            seen = await self.describe(worker_id)
            if seen is None:
                left.append(f"{worker_id} doesn't answer")
                continue
            load, blocks = seen.load, seen.status.facts.kv_blocks
            held = {name: getattr(load, name) for name in ("running_requests", "waiting_requests", "held_offers")}
            left += [f"{worker_id}: {name} is {count}" for name, count in held.items() if count]
            if load.free_blocks != blocks:
                left.append(f"{worker_id}: {load.free_blocks} of {blocks} blocks are free")
        return left


class Lives:
    """When which process began a life."""

    def __init__(self, run_dir: Path) -> None:
        self.started: list[tuple[float, str, int]] = []
        self.deaths: list[tuple[float, str, str]] = []
        self.log_start_bytes: dict[str, int] = {}
        self._run_dir = run_dir

    def report(self, event: Event) -> None:
        now_s = time.monotonic()
        if isinstance(event, Started):
            self.started.append((now_s, event.name, event.pid))
        elif isinstance(event, Restarting):
            self.deaths.append((now_s, event.name, str(event.death)))
            self.log_start_bytes[event.name] = (self._run_dir / f"{event.name}.log").stat().st_size


def _empty(run_dir: Path) -> None:
    run_dir.mkdir(parents=True, exist_ok=True)
    for old in run_dir.glob("*.log"):
        old.unlink()


@asynccontextmanager
async def soak_cluster(model: Path, run_dir: Path) -> AsyncIterator[SoakCluster]:
    """Running while the block runs. Everything is stopped afterwards, and dies with this process in any case."""
    _empty(run_dir)
    settings = LocalCluster(
        model=str(model),
        run_dir=run_dir,
        ports=choose_ports("127.0.0.1"),
        device="cpu",
        prefill=PoolSettings(2),
        decode=PoolSettings(2, ("--engine-arg", "max_num_seqs=16")),
        router_args=(*("--log-format", "json", "--disaggregation", "always"), *PATIENT),
        worker_args=("--transport", "grpc", "--lease", f"{LEASE_S:g}", "--log-format", "json"),
        drain_timeout_s=20.0,
    )
    lives = Lives(run_dir)
    async with AsyncExitStack() as stack:
        kv_ports = dict(zip(PREFILL, free_ports(len(PREFILL)), strict=True))
        links = {name: await stack.enter_async_context(Link(port).listening()) for name, port in kv_ports.items()}
        specs = []
        for spec in process_specs(settings, this_machine(), os.environ):
            extra: tuple[str, ...] = ()
            if spec.name in links:
                extra = ("--kv-port", str(kv_ports[spec.name]), "--advertise-kv", links[spec.name].address)
            specs.append(dataclasses.replace(spec, argv=(*spec.argv, *extra)))
        policy = RestartPolicy("restart", longest_pause_s=2.0)
        supervised = await stack.enter_async_context(supervise(specs, policy, lives.report, 25.0))
        yield SoakCluster(settings, links, supervised, lives)
