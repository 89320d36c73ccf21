"""Whoever stops listening, whenever: both engines return to their baseline, and the next request is served."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest

from segue.base.errors import DeadlineExceeded
from segue.client import SegueClient
from segue.proto.inference_pb2 import GenerateRequest, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from tests.e2e.running import ONE_CLUSTER, Cluster, assert_baseline, busy
from tests.e2e.test_parity import prompt_of

pytestmark = pytest.mark.engine

# Long enough that no answer ends by itself during a test.
LONG_ANSWER: dict[str, Any] = {"temperature": 0.0, "max_tokens": 2000, "ignore_eos": True}


@pytest.fixture
async def serving(cluster: Cluster, client: SegueClient) -> AsyncIterator[Cluster]:
    """The cluster, empty before and after, and serving after."""
    await asyncio.to_thread(assert_baseline, cluster)
    yield cluster
    await asyncio.to_thread(assert_baseline, cluster)
    answer = await client.generate("next", temperature=0.0, max_tokens=4, ignore_eos=True)
    assert len(answer.token_ids) == 4
    await asyncio.to_thread(assert_baseline, cluster)


@pytest.fixture
async def http(cluster: Cluster) -> AsyncIterator[aiohttp.ClientSession]:
    # Closing a response closes its connection: nothing is kept alive.
    async with aiohttp.ClientSession(cluster.http_url, connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield session


def request_for(prompt: tuple[int, ...]) -> GenerateRequest:
    return GenerateRequest(token_ids=TokenIds(ids=prompt), sampling=SamplingParams(**LONG_ANSWER))


def body_for(cluster: Cluster, prompt: tuple[int, ...], **more: Any) -> dict[str, Any]:
    return {"model": cluster.model, "prompt": list(prompt), "stream": True, **LONG_ANSWER, **more}


async def test_closing_an_http_stream(serving: Cluster, http: aiohttp.ClientSession) -> None:
    for stream_of in (1, 8):  # One answer, and eight to one prompt.
        async with http.post("/v1/completions", json=body_for(serving, prompt_of(150, stream_of), n=stream_of)) as got:
            for _ in range(20):
                await got.content.readline()
            assert await asyncio.to_thread(busy, serving)
            got.close()
        await asyncio.to_thread(assert_baseline, serving)


async def test_closing_the_connection_of_a_unary_request(serving: Cluster, http: aiohttp.ClientSession) -> None:
    body = body_for(serving, prompt_of(150, 3), stream=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await http.post("/v1/completions", json=body)


async def test_cancelling_a_grpc_stream(serving: Cluster, client: SegueClient) -> None:
    for deltas in (1, 2, 10):
        seen = 0
        async for _ in client.stream(prompt_of(200, deltas), **LONG_ANSWER):
            seen += 1
            if seen == deltas:
                break
        await asyncio.to_thread(assert_baseline, serving)


async def test_cancelling_at_any_moment(serving: Cluster) -> None:
    """Before, during and after prefill and the hand-off, one after the other and then all over each other."""
    async with grpc.aio.insecure_channel(serving.grpc_address) as channel:
        stub = InferenceStub(channel)

        async def cancel_after(pause_s: float, seed: int) -> None:
            call = stub.Generate(request_for(prompt_of(300 + seed, 40)))
            reading = asyncio.ensure_future(call.read())
            await asyncio.sleep(pause_s)
            call.cancel()
            with pytest.raises((grpc.aio.AioRpcError, asyncio.CancelledError)):
                await reading
                await call.read()
                raise asyncio.CancelledError

        for moment in range(24):
            await cancel_after(moment * 0.004, moment)
        await asyncio.to_thread(assert_baseline, serving)
        async with asyncio.TaskGroup() as tasks:
            for moment in range(24):
                tasks.create_task(cancel_after(moment * 0.012, 100 + moment))


async def test_cancelling_long_prompts_in_the_middle_of_prefill(serving: Cluster) -> None:
    async with grpc.aio.insecure_channel(serving.grpc_address) as channel:
        stub = InferenceStub(channel)
        # So many that they outlast a pause of this process, which is longer on a busy machine.
        calls = [stub.Generate(request_for(prompt_of(2000 + 10 * seed, 50 + seed))) for seed in range(12)]
        readings = [asyncio.ensure_future(call.read()) for call in calls]
        await asyncio.sleep(0.15)
        assert not all(reading.done() for reading in readings), "prefill was over before it could be cancelled"
        for call in calls:
            call.cancel()
        await asyncio.gather(*readings, return_exceptions=True)


@ONE_CLUSTER
async def test_closing_http_in_the_middle_of_prefill(serving: Cluster, http: aiohttp.ClientSession) -> None:
    async def give_up(seed: int) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await http.post("/v1/completions", json=body_for(serving, prompt_of(2050 + seed, 60 + seed)))

    await asyncio.gather(*(give_up(seed) for seed in range(5)))


async def test_a_deadline_that_passes_over_grpc(serving: Cluster, client: SegueClient) -> None:
    for timeout_s, tokens in ((0.8, 150), (0.1, 2000)):  # In decode; in prefill.
        started_s = time.monotonic()
        with pytest.raises(DeadlineExceeded):
            await client.generate(prompt_of(tokens, 70), timeout_s=timeout_s, **LONG_ANSWER)
        assert time.monotonic() - started_s < timeout_s + 10  # A machine may stand still; engines would go on.
        await asyncio.to_thread(assert_baseline, serving)


@ONE_CLUSTER
async def test_a_deadline_that_passes_over_http(serving: Cluster, http: aiohttp.ClientSession) -> None:
    late = {"X-Request-Timeout-S": "2.5"}
    body = body_for(serving, prompt_of(150, 80), stream=False)
    async with http.post("/v1/completions", json=body, headers=late) as answer:
        error = (await answer.json())["error"]
        assert answer.status == 504
        assert error["code"] == "deadline_exceeded"
        assert re.search(r"the request's 2\.[345]\d* s passed during decode, after \d+ output tokens", error["message"])
    async with http.post("/v1/completions", json=body_for(serving, prompt_of(150, 81)), headers=late) as answer:
        assert answer.status == 200  # The stream had begun.
        *_, last = [line async for line in answer.content if line.strip()]
        assert b"deadline_exceeded" in last
        assert b"[DONE]" not in last
    # Before the first token nothing has begun, and the status can still say it.
    late = {"X-Request-Timeout-S": "0.15"}
    bodies = [body_for(serving, prompt_of(3000, seed), max_tokens=500) for seed in range(90, 95)]
    slow = [http.post("/v1/completions", json=body, headers=late) for body in bodies]
    statuses = []
    for answer in await asyncio.gather(*slow):
        statuses.append(answer.status)
        answer.close()
    # Those that would have waited for longer than they have are refused at once.
    assert set(statuses) <= {200, 429, 504}, statuses
    assert statuses.count(504) + statuses.count(429) > 1, statuses
