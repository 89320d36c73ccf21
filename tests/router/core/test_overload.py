"""More than a cluster can do, through the whole router: the excess is refused at once, the rest is answered."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from segue.proto.inference_pb2 import GenerateRequest, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.queueing.admission import Admission
from segue.router.queueing.slo import SloClass, SloClasses
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import running_router, until

PLACES = 2


async def test_the_excess_is_refused_while_the_rest_is_answered_and_then_all_is_taken_again(
    codec: TextCodec,
) -> None:
    request = GenerateRequest(token_ids=TokenIds(ids=[5, 6, 7]), sampling=SamplingParams(max_tokens=3))
    admission = Admission(classes=SloClasses([SloClass("chat", ttft_s=5.0)]))
    async with (
        running_router(codec, admission=admission) as router,
        grpc.aio.insecure_channel(router.address) as channel,
    ):
        stub = InferenceStub(channel)
        _, decode = await router.attach_pair()
        for link in router.links:
            link.status.facts.max_running_requests = PLACES
        decode.go.clear()
        running: list[asyncio.Task[grpc.StatusCode]] = []
        # An engine that has not answered yet is taken for one that answers in a second.
        for count in range(1, 60):
            task = asyncio.ensure_future(stub.GenerateUnary(request, timeout=60).code())
            await until(lambda task=task, count=count: task.done() or router.dispatcher.running_requests == count)  # type: ignore[misc]
            if task.done():
                break
            running.append(task)
        assert task.result() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert PLACES < len(running) < 10 * PLACES
        # Decode has its places' worth and a little more to go on with; the rest is the router's to put in order.
        await until(lambda: len(decode.submits) == 2 * PLACES)
        assert len(router.dispatcher.waiting) == len(running) - 2 * PLACES > 0
        refused = stub.GenerateUnary(request, timeout=60)
        assert "the wait for a place in decode would be" in str(await refused.details())
        metadata = dict(await refused.trailing_metadata())
        assert int(metadata["retry-after-ms"]) > 0
        decode.go.set()
        assert await asyncio.gather(*running) == [grpc.StatusCode.OK] * len(running)
        router.assert_idle()
        again = [stub.GenerateUnary(request, timeout=60).code() for _ in range(PLACES)]
        assert await asyncio.gather(*again) == [grpc.StatusCode.OK] * PLACES
