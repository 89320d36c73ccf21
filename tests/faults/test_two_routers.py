"""Law 7: several routers share the pools, and one that is lost takes only its own requests with it."""

from __future__ import annotations

import asyncio
import random

import grpc.aio
import pytest

from segue.proto.inference_pb2_grpc import InferenceStub
from tests.e2e.reference import Case, Reference
from tests.faults.asks import Ask
from tests.faults.cells import Outcome
from tests.faults.cluster import Cluster

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(240)]

ANSWER_TOKENS = 150
# Of those whose router is killed: they are not to end before it is, however busy the machine.
DOOMED_TOKENS = 2000
STREAMS = 3


@pytest.mark.parametrize("cluster", ["grpc"], indirect=True)
async def test_two_routers_serve_from_the_same_workers_and_one_is_killed(
    cluster: Cluster, reference: Reference
) -> None:
    cluster.restart_ended()
    cluster.members["router-1"].start()
    await asyncio.to_thread(cluster.wait_whole, ("router-0", "router-1"))
    draw = random.Random(1)
    prompts = [tuple(draw.randrange(3, 1000) for _ in range(180)) for _ in range(2 * STREAMS)]
    sampling = {"temperature": 0.0, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
    expected = await asyncio.to_thread(reference.answer_together, [Case(prompt, sampling) for prompt in prompts])
    async with (
        grpc.aio.insecure_channel(cluster.grpc_address("router-0")) as surviving,
        grpc.aio.insecure_channel(cluster.grpc_address("router-1")) as doomed,
    ):
        stubs, lengths = [InferenceStub(surviving), InferenceStub(doomed)], [ANSWER_TOKENS, DOOMED_TOKENS]
        asks = [Ask(stubs[n % 2], prompt, lengths[n % 2], 60.0) for n, prompt in enumerate(prompts)]
        for ask in asks:
            await ask.seen(ANSWER_TOKENS // 10)
        cluster.members["router-1"].kill()
        for ask in asks:
            await ask.end()
        outcomes = [ask.outcome(answer) for ask, answer in zip(asks, expected, strict=True)]
        assert outcomes == [Outcome.WHOLE, Outcome.BROKEN] * STREAMS
        await asyncio.to_thread(cluster.wait_baseline, cluster.lease_s + 9)
        after = Ask(stubs[0], prompts[1], ANSWER_TOKENS, 30.0)
        await after.end()
        assert after.outcome(expected[1]) is Outcome.WHOLE
    await asyncio.to_thread(cluster.wait_baseline, 3)
