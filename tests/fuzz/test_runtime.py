"""A router that talks nonsense: the worker lives on, and nothing it said stays behind."""

from __future__ import annotations

import asyncio
import random

from segue.decode_worker.role import DecodeRole
from segue.prefill_worker.role import PrefillRole
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import EngineFacts, Registered, RequestOutput, RouterFrame, WorkerState
from segue.worker.attachment import Attachment
from segue.worker.releases import Releases
from segue.worker.runtime import WorkerRuntime
from tests.fuzz.inputs import draws
from tests.fuzz.test_grpc import fill
from tests.worker.fakes import REGISTER, FakeEngine, FakeProducer, prompt

FRAMES = 10


def frame(draw: random.Random, ids: list[str], address: str) -> RouterFrame:
    """Anything a router may say, of requests it has sent and of others."""
    made = RouterFrame()
    fill(draw, made, fields=4)
    for submit in made.submit:
        if draw.random() < 0.8:
            submit.request_id = draw.choice(ids)
        if submit.HasField("ticket"):
            submit.ticket.address = address
    if draw.random() < 0.3:
        made.submit.append(prompt(draw.choice(ids)))
    made.abort_request_ids.extend(draw.sample(ids, draw.randrange(2)))
    made.move_request_ids.extend(draw.sample(ids, draw.randrange(2)))
    return made


def said(draw: random.Random, engine: FakeEngine, ids: list[str]) -> list[RequestOutput]:
    """What the engine says of what it was given; sometimes of what it wasn't."""
    known = [submit.request_id for submit in engine.submits[-4:] if submit.request_id != "honest"]
    finish = FinishReason.Name(draw.choice(list(FinishReason.values())))
    return [RequestOutput(request_id=draw.choice([*known, draw.choice(ids)]), token_ids=[1], finish_reason=finish)]


async def test_frames_of_a_router() -> None:
    """A second router's requests are aborted by nobody but itself."""
    count = 0
    async with FakeProducer() as producer, asyncio.TaskGroup() as tasks, Releases(tasks) as releases:
        for draw in draws("router frames", quick=150):
            role = draw.choice((PrefillRole, DecodeRole))()
            engine = FakeEngine()
            runtime = WorkerRuntime(role, REGISTER, engine, releases)
            runtime.set_state(WorkerState.WORKER_STATE_READY, "ready", EngineFacts(kv_address=producer.address))
            bad, good = (Attachment(f"router-{name}:1", runtime) for name in ("bad", "good"))
            runtime.on_frame(good, RouterFrame(registered=Registered(router_id="good"), submit=[prompt("honest")]))
            ids = ["honest", *(f"r-{number}" for number in range(4))]
            for _ in range(FRAMES):
                runtime.on_frame(bad, frame(draw, ids, producer.address))
                runtime.on_step(said(draw, engine, ids[1:]), engine.load_now)
                runtime.tick(asyncio.get_running_loop().time())
                count += 1
            runtime.on_detached(bad)
            assert runtime.open_requests == 1
            assert "honest" not in engine.aborted
            runtime.on_detached(good)
            assert not runtime.open_requests
            assert engine.aborted[-1:] == ["honest"]
            assert not runtime.failure.done()
            await asyncio.sleep(0)
            # A router is as slow as it likes; here it is we who wait.
            while len(releases._sending) > 50:
                await asyncio.sleep(0.001)
    print(f"router frames: {count} inputs")
