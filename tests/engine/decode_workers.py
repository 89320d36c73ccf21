"""Real decode workers, with a router's end of our own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio

from segue.cluster.environment import share_of, worker_environment
from segue.cluster.local import this_machine
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.worker_pb2 import (
    DescribeRequest,
    DescribeResponse,
    EngineFacts,
    RequestOutput,
    RouterFrame,
    Status,
    Submit,
    WorkerState,
)
from segue.proto.worker_pb2_grpc import WorkerStub
from tests.worker.fakes import FakeHub, Session

if TYPE_CHECKING:  # The stub that grpc.aio channels give exists in the type stubs only.
    from segue.proto.worker_pb2_grpc import WorkerAsyncStub

START_TIMEOUT_S = 150.0
ANSWER_TIMEOUT_S = 90.0  # Engine cores in processes of their own and NIXL's threads spin on the same cores.


async def until(condition: object, timeout_s: float = 30.0) -> None:
    assert callable(condition)
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.002)


@dataclass
class Decode:
    """A decode worker's process and its stream to us."""

    process: subprocess.Popen[bytes]
    session: Session
    stub: WorkerAsyncStub
    facts: EngineFacts = field(default_factory=EngineFacts)

    async def submit(self, *legs: Submit) -> None:
        await self.session.send(RouterFrame(submit=legs))

    def outputs(self, name: str) -> list[RequestOutput]:
        return [output for output in self.session.outputs if output.request_id == name]

    def tokens(self, name: str) -> list[int]:
        return [token for output in self.outputs(name) for token in output.token_ids]

    async def last(self, name: str) -> RequestOutput:
        await until(lambda: any(output.finish_reason for output in self.outputs(name)), ANSWER_TIMEOUT_S)
        return self.outputs(name)[-1]

    @property
    def status(self) -> Status:
        return [frame.status for frame in self.session.frames if frame.HasField("status")][-1]

    async def describe(self) -> DescribeResponse:
        return await self.stub.Describe(DescribeRequest())

    async def is_at_baseline(self) -> None:
        """Every block free again, nothing running, nothing held."""
        async with asyncio.timeout(30):
            while True:
                load = (await self.describe()).load
                if load.free_blocks == self.facts.kv_blocks and not load.held_offers and not load.running_requests:
                    return
                await asyncio.sleep(0.005)


@asynccontextmanager
async def decode_workers(log_dir: Path, names: Sequence[str], *arguments: str) -> AsyncIterator[list[Decode]]:
    """Started side by side, from ready on."""
    model = str(ensure_embedded_model())
    processes: list[subprocess.Popen[bytes]] = []
    async with FakeHub() as hub:
        try:
            machine = this_machine()
            for index, name in enumerate(names):
                environment = worker_environment(os.environ, share_of(machine, index, "cpu"), kv_cache_gib=1.0)
                command = [
                    sys.executable,
                    "-m",
                    "segue.cli",
                    "decode-worker",
                    "--router",
                    hub.address,
                    "--model",
                    model,
                ]
                command += ["--worker-id", name, "--engine-arg", "dtype=float32", *arguments]
                with (log_dir / f"{name}.log").open("wb") as log:
                    processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))  # noqa: ASYNC220
            workers = []
            for number in range(len(names)):
                await until(lambda wanted=number: len(hub.sessions) > wanted, START_TIMEOUT_S)
                session = hub.sessions[number]
                register = session.frames[0].register
                process = processes[names.index(register.worker_id)]
                workers.append(Decode(process, session, WorkerStub(grpc.aio.insecure_channel(register.address))))
            for worker in workers:
                await until(lambda of=worker: ready(of.session) is not None, START_TIMEOUT_S)
                worker.facts = ready(worker.session) or EngineFacts()
            yield workers
        finally:
            for process in processes:
                process.kill()
                process.wait()


def ready(session: Session) -> EngineFacts | None:
    states = [frame.status for frame in session.frames if frame.HasField("status")]
    return next((status.facts for status in states if status.state == WorkerState.WORKER_STATE_READY), None)
