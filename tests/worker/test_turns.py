"""A flex worker between routers that are only looked into: how it leaves one role and comes back in the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest

from segue.decode_worker.role import DecodeRole
from segue.prefill_worker.role import PrefillRole
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import (
    EngineCounters,
    KvEvent,
    Load,
    Register,
    RequestError,
    Role,
    RouterFrame,
    Submit,
    TurnRequest,
    TurnResponse,
    WorkerState,
)
from segue.proto.worker_pb2_grpc import WorkerStub
from segue.worker.life import Worker
from segue.worker.metrics.by_role import CountersByRole
from segue.worker.settings import WorkerSettings
from tests.worker.fakes import FakeEngine, FakeHub, Session, eventually, prompt, tokens

PREFILL, DECODE = Role.ROLE_PREFILL, Role.ROLE_DECODE
READY, DRAINING = WorkerState.WORKER_STATE_READY, WorkerState.WORKER_STATE_DRAINING
LENGTH = FinishReason.FINISH_REASON_LENGTH


class Flex:
    """A worker that began as prefill, ready at two routers."""

    def __init__(self, worker: Worker, engine: FakeEngine, hubs: tuple[FakeHub, FakeHub]) -> None:
        self.worker = worker
        self.engine = engine
        self.hubs = hubs
        self.running = asyncio.create_task(worker.run())

    async def sessions(self, life: int = 0) -> list[Session]:
        """The stream to each router, of the worker's role so many turns after its start."""
        found = [await hub.session(life) for hub in self.hubs]
        await eventually(lambda: all(last_state(session) == READY for session in found))
        return found

    async def turn(self, role: Role, timeout_s: float = 0.0) -> TurnResponse:
        register = self.hubs[0].sessions[-1].frames[0].register
        async with grpc.aio.insecure_channel(register.address) as channel:
            return await WorkerStub(channel).Turn(TurnRequest(role=role, timeout_s=timeout_s), timeout=60)


def last_state(session: Session) -> WorkerState:
    states = [frame.status.state for frame in session.frames if frame.HasField("status")]
    return states[-1]


def registered(session: Session) -> Register:
    return session.frames[0].register


@asynccontextmanager
async def flex_worker(drain_timeout_s: float = 60.0) -> AsyncIterator[Flex]:
    engine = FakeEngine()
    async with FakeHub() as one, FakeHub() as other:
        settings = WorkerSettings(
            model="m",
            routers=(one.address, other.address),
            worker_id="flex-0",
            log_format="json",
            drain_timeout_s=drain_timeout_s,
        )
        worker = Worker(settings, PrefillRole(), lambda _: engine, turns_to=DecodeRole())
        flex = Flex(worker, engine, (one, other))
        try:
            await flex.sessions()
            yield flex
        finally:
            flex.running.cancel()
            await asyncio.wait([flex.running])


async def test_it_registers_anew_at_every_router_in_the_other_role_and_back_again() -> None:
    async with flex_worker() as flex:
        first = await flex.sessions()
        turned = await flex.turn(DECODE)
        assert 0 <= turned.empty_s <= turned.ready_s
        second = await flex.sessions(1)
        assert all(session.over.is_set() for session in first), "one role at a time"
        await flex.turn(PREFILL)
        third = await flex.sessions(2)
        lives = [(registered(session).role, registered(session).turns) for session in (first[0], second[0], third[0])]
        assert lives == [(PREFILL, 0), (DECODE, 1), (PREFILL, 2)]
        assert [registered(session).role for session in third] == [PREFILL, PREFILL]
        assert len({registered(session).epoch for session in (*first, *second, *third)}) == 1
        assert all(registered(session).flex for session in third)
        assert flex.engine.roles == ["decode", "prefill"]


async def test_it_turns_only_when_requests_and_offers_are_over_and_takes_nothing_new_meanwhile() -> None:
    async with flex_worker() as flex:
        (session, _) = await flex.sessions()
        await session.send(RouterFrame(submit=[prompt("one")]))
        await eventually(lambda: flex.engine.submits)
        turning = asyncio.create_task(flex.turn(DECODE))
        await eventually(lambda: last_state(session) == DRAINING)
        details = [frame.status.detail for frame in session.frames if frame.status.state == DRAINING]
        assert details[0].startswith("turning to decode: 1 request, 0 offers left")
        await session.send(RouterFrame(submit=[prompt("late")]))
        await eventually(lambda: session.outputs)
        assert session.outputs[0].error.kind == RequestError.KIND_UNAVAILABLE
        flex.engine.load_now = Load(held_offers=1)
        flex.engine.listener.on_step([tokens("one", 5, finish=LENGTH)], flex.engine.load_now)
        await asyncio.sleep(0.3)
        assert flex.engine.roles == []
        flex.engine.load_now = Load()
        await turning
        assert [list(output.token_ids) for output in session.outputs[1:]] == [[5]]
        assert flex.engine.roles == ["decode"]


async def test_one_that_is_not_empty_in_time_goes_on_in_its_old_role_and_drops_nothing() -> None:
    async with flex_worker() as flex:
        (session, _) = await flex.sessions()
        await session.send(RouterFrame(submit=[prompt("one")]))
        await eventually(lambda: flex.engine.submits)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await flex.turn(DECODE, timeout_s=0.2)
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "1 request, 0 offers left" in (raised.value.details() or "")
        await eventually(lambda: last_state(session) == READY)
        flex.engine.listener.on_step([tokens("one", 5, finish=LENGTH)], Load())
        await session.send(RouterFrame(submit=[prompt("two")]))
        await eventually(lambda: len(flex.engine.submits) == 2 and session.outputs)
        assert [list(output.token_ids) for output in session.outputs] == [[5]]
        assert (flex.engine.roles, flex.engine.aborted, session.over.is_set()) == ([], [], False)


async def test_a_turn_can_be_called_off() -> None:
    async with flex_worker() as flex:
        (session, _) = await flex.sessions()
        await session.send(RouterFrame(submit=[prompt("one")]))
        await eventually(lambda: flex.engine.submits)
        turning = asyncio.create_task(flex.turn(DECODE))
        await eventually(lambda: last_state(session) == DRAINING)
        await flex.turn(PREFILL)
        with pytest.raises(grpc.aio.AioRpcError, match="called off"):
            await turning
        await eventually(lambda: last_state(session) == READY)


async def test_a_leg_for_the_role_that_it_had_is_refused_so_that_another_worker_takes_it() -> None:
    async with flex_worker() as flex:
        await flex.turn(DECODE)
        (session, _) = await flex.sessions(1)
        await session.send(RouterFrame(submit=[prompt("planned before", offer_kv=True)]))
        await eventually(lambda: session.outputs)
        error = session.outputs[0].error
        assert error.kind == RequestError.KIND_UNAVAILABLE
        assert "has turned to decode" in error.message
        await session.send(RouterFrame(submit=[Submit(request_id="d", input_token_ids=[1])]))
        await eventually(lambda: flex.engine.submits)


async def test_what_is_in_its_prefix_cache_is_told_again_in_the_new_role() -> None:
    async with flex_worker() as flex:
        stored = KvEvent(stored=KvEvent.Stored(parent=0, blocks=[7, 8, 9]))
        flex.engine.listener.on_kv_events([stored])
        await flex.turn(DECODE)
        for session in await flex.sessions(1):
            told = [event for frame in session.frames for event in frame.kv_events.events]
            assert told == [stored]


async def test_told_to_drain_while_it_turns_it_drains() -> None:
    async with flex_worker() as flex:
        (session, _) = await flex.sessions()
        await session.send(RouterFrame(submit=[prompt("one")]))
        await eventually(lambda: flex.engine.submits)
        turning = asyncio.create_task(flex.turn(DECODE))
        await eventually(lambda: last_state(session) == DRAINING)
        flex.worker.begin_drain()
        with pytest.raises(grpc.aio.AioRpcError, match="told to leave"):
            await turning
        flex.engine.listener.on_step([tokens("one", 5, finish=LENGTH)], Load())
        async with asyncio.timeout(30):
            assert await flex.running == 0
        assert [list(output.token_ids) for output in session.outputs] == [[5]]
        assert flex.engine.roles == []


async def test_an_engine_that_is_lost_in_the_middle_of_a_turn_ends_the_worker() -> None:
    async with flex_worker() as flex:
        (session, _) = await flex.sessions()
        await session.send(RouterFrame(submit=[prompt("one")]))
        await eventually(lambda: flex.engine.submits)
        turning = asyncio.create_task(flex.turn(DECODE))
        await eventually(lambda: last_state(session) == DRAINING)
        flex.engine.listener.on_failure(RuntimeError("device lost"))
        with pytest.raises(grpc.aio.AioRpcError, match="lost its engine"):
            await turning
        async with asyncio.timeout(30):
            assert await flex.running == 1


def test_what_the_engine_counts_is_told_by_the_role_in_which_it_did() -> None:
    now = EngineCounters(requests=9, generated_tokens=9)
    prefill, decode = Register(worker_id="f", role=PREFILL), Register(worker_id="f", role=DECODE)
    counted = CountersByRole(prefill, lambda: now)
    counted.read()
    now = EngineCounters(requests=3, generated_tokens=3)  # Its warm-up is forgotten, and three have come since.
    counted.on_role(decode)
    now = EngineCounters(requests=4, generated_tokens=53)
    counted.on_role(prefill)
    now = EngineCounters(requests=6, generated_tokens=55)
    told = {labels: (one.requests, one.generated_tokens) for labels, one in counted.read().items()}
    assert told == {("f", "prefill"): (3 + 2, 3 + 2), ("f", "decode"): (1, 50)}
