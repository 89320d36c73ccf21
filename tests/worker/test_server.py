"""The worker's own gRPC server, dialled as an operator's tool would."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from segue.base.errors import Conflict, SettingsError
from segue.engine.settings import EngineRole
from segue.prefill_worker.role import PrefillRole
from segue.proto.worker_pb2 import DescribeRequest, DrainRequest, Load, Role, TurnRequest, TurnResponse, WorkerState
from segue.proto.worker_pb2_grpc import WorkerStub
from segue.worker.releases import Releases
from segue.worker.runtime import WorkerRuntime
from segue.worker.server import SERVICE, WorkerServer, WorkerService
from tests.worker.fakes import REGISTER, FakeEngine

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Served:
    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.engine = FakeEngine(load_now=Load(held_offers=3, free_blocks=5))
        self.runtime = WorkerRuntime(PrefillRole(), REGISTER, self.engine, Releases(tasks))
        self.server = WorkerServer("127.0.0.1", 0)
        self.drains: list[float] = []

    async def turn(self, role: EngineRole, timeout_s: float) -> TurnResponse:
        if role == "prefill":
            raise Conflict("not now")
        return TurnResponse(empty_s=0.5, ready_s=timeout_s)

    def drain(self, timeout_s: float) -> float:
        self.drains.append(timeout_s)
        return 6.5


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with asyncio.TaskGroup() as tasks:
        made = Served(tasks)
        await made.server.start(WorkerService(made.runtime, made.engine, made.drain, made.turn))
        yield made
        await made.server.stop()


@pytest.fixture
async def channel(served: Served) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(served.server.address) as made:
        yield made


async def test_describe_tells_who_what_and_how_much(served: Served, channel: grpc.aio.Channel) -> None:
    answer = await WorkerStub(channel).Describe(DescribeRequest())
    assert answer.register == REGISTER
    assert answer.status.state == WorkerState.WORKER_STATE_LOADING
    assert answer.load == served.engine.load_now
    assert answer.counters == served.engine.counters()


async def test_drain_answers_at_once_with_what_is_left(served: Served, channel: grpc.aio.Channel) -> None:
    answer = await WorkerStub(channel).Drain(DrainRequest(timeout_s=7))
    assert (answer.running_requests, answer.held_offers, answer.timeout_s) == (0, 3, 6.5)
    assert served.drains == [7]


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_health_follows_readiness(served: Served, channel: grpc.aio.Channel, service: str) -> None:
    stub = health_pb2_grpc.HealthStub(channel)

    async def status() -> int:
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)

    assert await status() == NOT_SERVING
    await served.server.set_ready(True)
    assert await status() == SERVING
    await served.server.set_ready(False)
    assert await status() == NOT_SERVING


async def test_a_port_that_is_taken_is_refused_with_a_way_out(served: Served) -> None:
    """gRPC shares ports by default: two workers told the same one would take each other's calls."""
    port = int(served.server.address.rpartition(":")[2])
    with pytest.raises(SettingsError, match=rf"can't listen on 127.0.0.1:{port}.*choose another --port"):
        WorkerServer("127.0.0.1", port)


async def test_a_turn_is_answered_when_it_is_over_or_with_why_not(served: Served, channel: grpc.aio.Channel) -> None:
    stub = WorkerStub(channel)
    turned = await stub.Turn(TurnRequest(role=Role.ROLE_DECODE, timeout_s=2.0))
    assert (turned.empty_s, turned.ready_s) == (0.5, 2.0)
    for role, code in (
        (Role.ROLE_PREFILL, grpc.StatusCode.FAILED_PRECONDITION),
        (Role.ROLE_UNSPECIFIED, grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await stub.Turn(TurnRequest(role=role))
        assert raised.value.code() is code
