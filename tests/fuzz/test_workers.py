"""A worker that talks nonsense: the router lives on, and answers of the other workers are what they would be."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any

import grpc.aio

from segue.base.versions import PROTOCOL
from segue.client import SegueClient
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import Register, Role, Status, WorkerFrame, WorkerState
from segue.proto.worker_pb2_grpc import WorkerHubStub
from tests.fuzz.conftest import Front, short
from tests.fuzz.inputs import draws, mutated
from tests.fuzz.test_grpc import fill
from tests.router.core.scripted import FACTS, read

PROMPT = [5, 6, 7]


def frame(draw: random.Random, known: list[str]) -> WorkerFrame:
    """Anything a worker may say, about requests that it was given and others."""
    made = WorkerFrame()
    fill(draw, made, fields=3)
    for output in made.outputs:
        if known and draw.random() < 0.7:
            output.request_id = draw.choice(known)
    made.ClearField("register")
    if made.HasField("status"):  # Or nobody would give it work.
        made.status.CopyFrom(Status(state=WorkerState.WORKER_STATE_READY, facts=FACTS))
    return made


async def test_frames_of_a_decode_worker(front: Front) -> None:
    """It is given work like any other, and answers with anything."""
    rounds = 0
    async with SegueClient(front.router.address) as client:
        for draw in draws("worker frames", quick=6):
            await _one_life(front, draw)
            rounds += 1
            if rounds % 20 == 0:
                await _served(client, draw)
        await _served(client, random.Random(0))
    print(f"worker frames: {rounds} lives of up to 30 frames")


async def _served(client: SegueClient, draw: random.Random) -> None:
    prompt = [*PROMPT, draw.randrange(100, 2000)]
    answer = await client.generate(prompt, max_tokens=5)
    assert list(answer.token_ids) == short(prompt, SamplingParams(max_tokens=5))[:5]


async def _one_life(front: Front, draw: random.Random) -> None:
    register = Register(
        worker_id=f"decode-nonsense-{draw.randrange(3)}",
        epoch=str(draw.random()),
        role=draw.choice((Role.ROLE_DECODE, Role.ROLE_PREFILL)),
        protocol=PROTOCOL,
    )
    status = Status(state=WorkerState.WORKER_STATE_READY, facts=FACTS)
    async with (
        grpc.aio.insecure_channel(front.router.hub_address, options=[("grpc.use_local_subchannel_pool", 1)]) as channel,
        SegueClient(front.router.address) as client,
    ):
        call = WorkerHubStub(channel).Attach()  # type: ignore[call-arg]
        await call.write(WorkerFrame(register=register, status=status))
        await read(call)
        asked = [asyncio.create_task(client.generate([*PROMPT, n], max_tokens=4, timeout_s=0.5)) for n in range(4)]
        given = await read(call)
        known = [submit.request_id for submit in given.submit] if given is not None else []
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for _ in range(draw.randrange(30)):
                await call.write(frame(draw, known))
        call.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_bytes_on_the_workers_stream(front: Front) -> None:
    """Also before a Register, and in place of one."""
    count = 0
    sane = WorkerFrame(register=Register(worker_id="w", epoch="e", role=Role.ROLE_DECODE, protocol=PROTOCOL))
    async with grpc.aio.insecure_channel(front.router.hub_address) as channel:
        attach: Any = channel.stream_stream("/segue.v1.WorkerHub/Attach")  # type: ignore[call-arg]
        for draw in draws("worker bytes", quick=150):
            call = attach(timeout=5)
            with suppress(grpc.aio.AioRpcError):
                await call.write(mutated(draw, sane.SerializeToString()))
                await call.write(draw.randbytes(draw.randrange(60)))
                await call.done_writing()
                await call.read()
            call.cancel()
            count += 1
    print(f"worker bytes: {count} inputs")
    async with SegueClient(front.router.address) as client:
        await _served(client, random.Random(1))
