"""Every process of a cluster is replaced by one of another version, one by one, under load: no stream notices.

The routers stand behind what a load balancer does: a new request goes to one that answers, a running one stays.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from segue.base.errors import SegueError, Unavailable
from segue.base.versions import PROTOCOL, VERSION
from segue.client import Connection, FleetClient, SegueClient
from segue.cluster.ports import Ports, choose_ports
from segue.cluster.readiness import RouterHttp, wait_until_ready
from segue.engine.embedded_model import ensure_embedded_model
from segue.engine.simulated.tokens import expected_tokens
from segue.proto.fleet_pb2 import FleetState
from tests.simulated import VOCAB_SIZE

NEXT_VERSION = "99.0.0"
ANSWER_TOKENS = 64
START_S = 240.0


@dataclass
class Upgrade:
    """The processes by name, and where routers are. ``releases`` has a folder for each version but the current one."""

    run_dir: Path
    releases: Path
    ports: dict[str, Ports] = field(default_factory=dict)
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start(self, name: str, version: str = VERSION) -> None:
        """A router, or a worker that knows of both routers."""
        argv = ["--model", str(ensure_embedded_model()), "--drain-timeout", "100", "--log-format", "json"]
        if name.startswith("router"):
            ports = self.ports[name]
            argv += ["--port", str(ports.http), "--grpc-port", str(ports.grpc), "--worker-port", str(ports.worker)]
            command = ["router", *argv, "--max-queue-s", "100", "--slo-class", "chat=ttft_s:100,tokens_per_s:1"]
            command += ["--disaggregation", "always"]
        else:
            routers = [word for ports in self.ports.values() for word in ("--router", f"127.0.0.1:{ports.worker}")]
            argv += ["--engine", "simulated", "--worker-id", name]
            command = [f"{name.partition('-')[0]}-worker", *argv, *routers]
        release = [] if version == VERSION else [str(self.releases / version)]
        path = [*release, *os.environ.get("PYTHONPATH", "").split(":")]
        with (self.run_dir / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "segue.cli", *command, "--die-with-parent", str(os.getpid())),
                env={**os.environ, "PYTHONPATH": ":".join(path)},
                stdout=log,
                stderr=log,
            )

    async def end(self, name: str) -> None:
        """As a new image does: SIGTERM, and then as long as the drain takes."""
        process = self.processes.pop(name)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), START_S) == 0, f"{name} has not drained"

    async def ready(self, *names: str, prefill: int = 1, decode: int = 1) -> None:
        """Until these routers have so many workers."""
        for name in names:
            http = RouterHttp(f"http://127.0.0.1:{self.ports[name].http}")
            await wait_until_ready(http, prefill, decode, START_S, lambda _: None)

    async def seen_by(self, name: str) -> FleetState:
        async with FleetClient(Connection(f"127.0.0.1:{self.ports[name].grpc}"), timeout_s=60.0) as client:
            return await client.state()


@dataclass
class Clients:
    upgrade: Upgrade
    answered: int = 0
    turned_away: int = 0
    lost: list[SegueError] = field(default_factory=list)
    changed: list[list[int]] = field(default_factory=list)

    async def go_on(self, number: int) -> None:
        draw = random.Random(number)
        while True:
            prompt = [draw.randrange(3, 1000) for _ in range(draw.randrange(5, 400))]
            tokens = await self._answer(prompt, draw)
            self.answered += 1
            if tokens != expected_tokens(prompt, ANSWER_TOKENS, VOCAB_SIZE, ()):
                self.changed.append(prompt)

    async def more(self, answers: int) -> None:
        wanted = self.answered + answers
        while self.answered < wanted and not self.lost:
            await asyncio.sleep(0.02)

    async def _answer(self, prompt: list[int], draw: random.Random) -> list[int]:
        while True:
            ports = draw.choice(list(self.upgrade.ports.values()))
            tokens: list[int] = []
            async with SegueClient(Connection(f"127.0.0.1:{ports.grpc}")) as client:
                try:
                    async for delta in client.stream(prompt, max_tokens=ANSWER_TOKENS, ignore_eos=True):
                        tokens += delta.token_ids
                    return tokens
                except SegueError as error:
                    if tokens or not isinstance(error, Unavailable):
                        self.lost.append(error)
                        raise
            self.turned_away += 1
            await asyncio.sleep(0.05)


@pytest.fixture
async def upgrade(tmp_path: Path) -> AsyncIterator[Upgrade]:
    """Nothing yet, and two releases of everything."""
    released = tmp_path / "releases" / NEXT_VERSION / f"segue-{NEXT_VERSION}.dist-info"
    released.mkdir(parents=True)
    (released / "METADATA").write_text(f"Metadata-Version: 2.1\nName: segue\nVersion: {NEXT_VERSION}\n")
    ports = {name: choose_ports("127.0.0.1") for name in ("router-0", "router-1")}
    upgrade = Upgrade(tmp_path, tmp_path / "releases", ports)
    try:
        yield upgrade
    finally:
        for process in upgrade.processes.values():
            process.kill()
            await process.wait()


@asynccontextmanager
async def load_on(upgrade: Upgrade) -> AsyncIterator[Clients]:
    clients = Clients(upgrade)
    async with asyncio.TaskGroup() as tasks:
        asking = [tasks.create_task(clients.go_on(number)) for number in range(4)]
        yield clients
        for task in asking:
            task.cancel()


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_all_processes_are_replaced_under_load_and_no_stream_is_lost_or_changed(upgrade: Upgrade) -> None:
    for name in (*upgrade.ports, "prefill-0", "decode-0"):
        await upgrade.start(name)
    await upgrade.ready(*upgrade.ports)
    before = {worker.worker_id: worker.epoch for worker in (await upgrade.seen_by("router-0")).workers}
    async with load_on(upgrade) as clients:
        await clients.more(4)
        for router in ("router-0", "router-1"):
            await upgrade.end(router)
            await upgrade.start(router, NEXT_VERSION)
            await upgrade.ready(router)
            await clients.more(4)
        # A pool is given a worker before it loses one.
        await upgrade.start("prefill-1", NEXT_VERSION)
        await upgrade.ready(*upgrade.ports, prefill=2)
        await upgrade.end("prefill-0")
        await clients.more(4)  # Prefill of the new version hands over to decode of the old one.
        await upgrade.start("decode-1", NEXT_VERSION)
        await upgrade.ready(*upgrade.ports, decode=2)
        await upgrade.end("decode-0")
        await upgrade.start("decode-0", NEXT_VERSION)  # The same name, and another life.
        await upgrade.ready(*upgrade.ports, decode=2)
        await clients.more(4)
    assert clients.lost == []
    assert clients.changed == []
    for router in upgrade.ports:
        seen = await upgrade.seen_by(router)
        assert seen.version == NEXT_VERSION
        assert {worker.worker_id: worker.version for worker in seen.workers} == dict.fromkeys(
            ("prefill-1", "decode-0", "decode-1"), NEXT_VERSION
        )
        assert next(worker.epoch for worker in seen.workers if worker.worker_id == "decode-0") != before["decode-0"]


@pytest.mark.slow
async def test_a_worker_of_a_protocol_that_routers_do_not_speak_leaves_and_says_what_to_upgrade(
    upgrade: Upgrade,
) -> None:
    await upgrade.start("router-0")
    newer = upgrade.releases / NEXT_VERSION
    (newer / "sitecustomize.py").write_text(f"import segue.base.versions as v; v.PROTOCOL = {PROTOCOL + 1}")
    await upgrade.start("decode-1", NEXT_VERSION)
    refused = upgrade.processes.pop("decode-1")
    assert await asyncio.wait_for(refused.wait(), START_S) == 2
    said = (upgrade.run_dir / "decode-1.log").read_text()
    for word in (
        f"protocol {PROTOCOL + 1}",
        NEXT_VERSION,
        f"this router {PROTOCOL}",
        "upgrade all routers before workers",
    ):
        assert word in said
    (entry, *_) = lines_of(upgrade.run_dir / "router-0.log", "worker_refused")
    assert entry["worker_id"] == "decode-1"
    assert not (await upgrade.seen_by("router-0")).workers


def lines_of(log: Path, event: str) -> list[dict[str, Any]]:
    lines = (json.loads(line) for line in log.read_text().splitlines() if line.startswith("{"))
    return [line for line in lines if line["event"] == event]
