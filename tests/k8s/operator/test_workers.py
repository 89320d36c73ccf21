"""What workers are asked and told, over their own gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from segue.engine.settings import EngineRole
from segue.operator.shrink import Load
from segue.operator.workers import GrpcWorkers
from segue.prefill_worker.role import PrefillRole
from segue.proto.worker_pb2 import Load as LoadMessage
from segue.proto.worker_pb2 import TurnResponse, WorkerState
from segue.worker.releases import Releases
from segue.worker.runtime import WorkerRuntime
from segue.worker.server import WorkerServer, WorkerService
from tests.worker.fakes import REGISTER, FakeEngine


class Served:
    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        load = LoadMessage(running_requests=2, waiting_requests=1, waiting_tokens=700, held_offers=3)
        self.engine = FakeEngine(load_now=load)
        self.runtime = WorkerRuntime(PrefillRole(), REGISTER, self.engine, Releases(tasks))
        self.server = WorkerServer("127.0.0.1", 0)
        self.drains: list[float] = []
        self.operator = GrpcWorkers(port=int(self.server.address.rpartition(":")[2]))

    async def turn(self, role: EngineRole, timeout_s: float) -> TurnResponse:
        raise AssertionError("nobody asks for that on Kubernetes")

    def drain(self, timeout_s: float) -> float:
        self.drains.append(timeout_s)
        self.runtime.set_state(WorkerState.WORKER_STATE_DRAINING, "")
        return 6.5


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with asyncio.TaskGroup() as tasks:
        made = Served(tasks)
        await made.server.start(WorkerService(made.runtime, made.engine, made.drain, made.turn))
        yield made
        await made.server.stop()


async def test_a_worker_says_what_it_has_to_do_and_whether_it_drains(served: Served) -> None:
    seen = await served.operator.loads({"pod-1": "127.0.0.1"})
    assert seen == {"pod-1": Load(requests=3, offers=3, waiting_tokens=700, draining=False)}
    await served.operator.drain("pod-1", "127.0.0.1")
    assert served.drains == [0], "its own drain timeout, which its pod was given"
    seen = await served.operator.loads({"pod-1": "127.0.0.1"})
    assert seen["pod-1"].draining
    assert not seen["pod-1"].empty


async def test_one_that_does_not_answer_is_left_out_and_telling_it_is_no_error(served: Served) -> None:
    await served.server.stop()
    assert await served.operator.loads({"pod-1": "127.0.0.1"}) == {}
    await served.operator.drain("pod-1", "127.0.0.1")
