"""Two real decode workers and a router's end of our own: a running request goes from one to the other."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from segue.cluster.environment import share_of, worker_environment
from segue.cluster.local import this_machine
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.kv_transfer_pb2 import ReleaseRequest, Ticket
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
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

pytestmark = [pytest.mark.engine, pytest.mark.timeout(240)]

PROMPT = [7 * number % 1900 + 50 for number in range(300)]
ANSWER_TOKENS = 150
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

    async def submit(self, name: str, output: Sequence[int], ticket: Ticket | None = None) -> None:
        sampling = SamplingParams(temperature=0, max_tokens=ANSWER_TOKENS - len(output), ignore_eos=True)
        submit = Submit(
            request_id=name, input_token_ids=[*PROMPT, *output], sampling=sampling, timeout_s=60, ticket=ticket
        )
        await self.session.send(RouterFrame(submit=[submit]))

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
        async with asyncio.timeout(10):
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


@pytest.mark.parametrize(
    ("engine", "transport"),
    [
        ("inproc", "grpc"),
        pytest.param("inproc", "nixl", marks=pytest.mark.variant),
        pytest.param("async", "grpc", marks=pytest.mark.variant),
        pytest.param("async", "nixl", marks=pytest.mark.variant),
    ],
)
async def test_running_requests_move_with_their_kv_cache(tmp_path: Path, engine: str, transport: str) -> None:
    """One test for all of it: to start the two engines takes most of its time."""
    arguments = ("--engine", engine, "--transport", transport)
    async with decode_workers(tmp_path, ["decode-0", "decode-1"], *arguments) as (one, two):
        await one.submit("undisturbed", [])
        await one.last("undisturbed")
        expected = one.tokens("undisturbed")
        assert len(expected) == ANSWER_TOKENS
        await one.is_at_baseline()
        await moved_in_the_middle_of_its_stream(one, two, expected)
        await moved_before_its_first_token(one, two, expected)
        await moved_and_given_up(one)
        await cancelled(one)
        await moved_by_a_drain(one, two, expected)


async def moved_in_the_middle_of_its_stream(one: Decode, two: Decode, expected: list[int]) -> None:
    await one.submit("moved", [])
    await until(lambda: len(one.tokens("moved")) >= 40)
    await one.session.send(RouterFrame(move_request_ids=["moved"]))
    last = await one.last("moved")
    assert last.finish_reason == FinishReason.FINISH_REASON_ABORT
    assert not last.HasField("error")
    emitted = one.tokens("moved")
    assert 40 <= len(emitted) < ANSWER_TOKENS
    assert last.offer.tokens == len(PROMPT) + len(emitted) - 1
    held = (await one.describe()).load
    assert (held.held_offers, held.running_requests) == (1, 0)
    await two.submit("moved", emitted, last.offer)
    done = await two.last("moved")
    assert emitted + two.tokens("moved") == expected
    assert done.usage.transferred_tokens == last.offer.tokens
    assert done.usage.computed_tokens == 1
    assert done.transfer.error == ""
    await one.is_at_baseline()
    await two.is_at_baseline()


async def moved_before_its_first_token(one: Decode, two: Decode, expected: list[int]) -> None:
    await one.submit("early", [])
    await one.session.send(RouterFrame(move_request_ids=["early"]))
    early = await one.last("early")
    assert early.finish_reason == FinishReason.FINISH_REASON_ABORT
    await two.submit("early", one.tokens("early"), early.offer if early.HasField("offer") else None)
    await two.last("early")
    assert one.tokens("early") + two.tokens("early") == expected
    await one.is_at_baseline()


async def moved_and_given_up(one: Decode) -> None:
    await one.submit("given up", [])
    await until(lambda: one.tokens("given up"))
    await one.session.send(RouterFrame(move_request_ids=["given up"]))
    ticket = (await one.last("given up")).offer
    assert ticket.tokens > 0
    release = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason="cancelled")
    await one.session.send(RouterFrame(release=[release]))
    await one.is_at_baseline()


async def cancelled(one: Decode) -> None:
    """While it decodes: the load that is looked at is of the last step, which before the cancel had the request."""
    await one.submit("cancelled", [])
    await until(lambda: len(one.tokens("cancelled")) >= 5)
    started_s = time.monotonic()
    await one.session.send(RouterFrame(abort_request_ids=["cancelled"]))
    await one.is_at_baseline()
    print(f"from cancel to free blocks, seen from outside: {1000 * (time.monotonic() - started_s):.0f} ms")


async def moved_by_a_drain(one: Decode, two: Decode, expected: list[int]) -> None:
    """A worker that is told to leave offers what it has, and leaves when that has been fetched."""
    await one.submit("drained", [])
    await until(lambda: len(one.tokens("drained")) >= 5)
    one.process.send_signal(signal.SIGTERM)
    await until(lambda: one.status.state == WorkerState.WORKER_STATE_DRAINING)
    assert one.status.detail.startswith("draining: 1 request, 0 offers left")
    await one.session.send(RouterFrame(move_request_ids=["drained"]))
    ticket = (await one.last("drained")).offer
    await asyncio.sleep(0.3)
    assert one.process.poll() is None, "it left with an offer that was not fetched"
    assert one.status.detail.startswith("draining: 0 requests, 1 offer left")
    await two.submit("drained", one.tokens("drained"), ticket)
    done = await two.last("drained")
    assert one.tokens("drained") + two.tokens("drained") == expected
    assert done.transfer.error == ""
    await until(lambda: one.process.poll() == 0)
    await two.is_at_baseline()
