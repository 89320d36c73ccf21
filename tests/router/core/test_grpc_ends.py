"""Calls over gRPC that aren't answered whole: deadlines, cancels, slow readers, limits, bad requests."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from segue.proto.inference_pb2 import (
    ChatMessage,
    ChatMessages,
    GenerateRequest,
    TokenIds,
)
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams, StructuredOutputs
from segue.router.limits import Limits
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import Router, running_router, until

if TYPE_CHECKING:  # A name of the stubs for the type checker only.
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub
from tests.router.core.calls import Pair, ask, collect, refused, tokens_of


async def test_the_calls_deadline_ends_it_on_both_sides(router: Router, stub: InferenceAsyncStub, pair: Pair) -> None:
    decode = pair[1]
    decode.go.clear()
    for timeout_s in (0.3, 3.0, 30.0):  # The first that leaves this machine time to get as far as decode.
        code, _, _ = await refused(stub.Generate(ask(), timeout=timeout_s))
        assert code is grpc.StatusCode.DEADLINE_EXCEEDED
        if decode.submits:
            break
    assert 0 < list(decode.submits.values())[-1].timeout_s <= timeout_s
    await until(lambda: decode.submits.keys() == decode.aborted_at_s.keys())
    await until(lambda: not router.dispatcher.running_requests)
    router.assert_idle()


async def test_the_routers_own_deadline_says_how_far_it_came(codec: TextCodec) -> None:
    for timeout_s in (0.2, 2.0, 20.0):  # The first that leaves this machine time to get as far as decode.
        limits = Limits(default_timeout_s=timeout_s)
        async with (
            running_router(codec, limits=limits) as router,
            grpc.aio.insecure_channel(router.address) as channel,
        ):
            _, decode = await router.attach_pair()
            decode.go.clear()
            code, details, word = await refused(InferenceStub(channel).GenerateUnary(ask()))
            assert (code, word) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded")
            await until(lambda decode=decode: decode.submits.keys() == decode.aborted_at_s.keys())  # type: ignore[misc]
            router.assert_idle()
            if decode.submits:
                break
    # What was left of them when the prompt had been read.
    assert re.fullmatch(r"the request's [\d.]+ s passed during decode, after 1 output tokens", details)


@pytest.mark.parametrize("method", ["Generate", "GenerateUnary"])
@pytest.mark.parametrize("phase", ["prefill", "decode"])
async def test_a_clients_cancel_reaches_the_worker_at_once(
    router: Router, stub: InferenceAsyncStub, pair: Pair, method: str, phase: str
) -> None:
    worker = pair[0] if phase == "prefill" else pair[1]
    worker.go.clear()
    delays_s = []
    for _ in range(4):
        call = getattr(stub, method)(ask())
        reading = asyncio.create_task(collect(call) if method == "Generate" else call.code())
        await until(lambda: len(worker.submits) > len(worker.aborted_at_s))
        cancelled_at_s = time.monotonic()
        call.cancel()
        await until(lambda: len(worker.submits) == len(worker.aborted_at_s))
        delays_s.append(max(worker.aborted_at_s.values()) - cancelled_at_s)
        await asyncio.gather(reading, return_exceptions=True)
    assert min(delays_s) < 0.5  # The cores may be busy; not every time.
    router.assert_idle()


async def test_a_client_that_does_not_read_is_still_noticed_when_it_goes(
    router: Router, stub: InferenceAsyncStub, pair: Pair
) -> None:
    for worker in pair:
        worker.answer = lambda prompt, sampling: [300] * sampling.max_tokens + [301]
    call = stub.Generate(ask(4000, logprobs=2))
    await until(lambda: pair[1].submits)
    await asyncio.sleep(0.3)  # By now the router waits for the client to read.
    pair[1].go.clear()
    call.cancel()
    await until(lambda: router.dispatcher.running_requests == 0)
    router.assert_idle()


async def test_beyond_the_limit_a_call_is_refused_and_the_others_go_on(codec: TextCodec) -> None:
    async with (
        running_router(codec, max_concurrent_requests=2) as router,
        grpc.aio.insecure_channel(router.address) as channel,
    ):
        stub = InferenceStub(channel)
        _, decode = await router.attach_pair()
        decode.go.clear()
        running = [asyncio.ensure_future(stub.GenerateUnary(ask()).code()) for _ in range(2)]
        await until(lambda: len(decode.submits) == 2)
        code, details, word = await refused(stub.Generate(ask()))
        assert (code, word) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "overloaded")
        assert "2 requests are running" in details
        trailer = dict(await stub.GenerateUnary(ask()).trailing_metadata())
        assert trailer["retry-after-ms"] == "1000"
        decode.go.set()
        assert await asyncio.gather(*running) == [grpc.StatusCode.OK] * 2
        router.assert_idle()


async def test_draining_finishes_what_runs_and_refuses_what_comes(
    router: Router, stub: InferenceAsyncStub, pair: Pair
) -> None:
    pair[1].go.clear()
    running = asyncio.create_task(collect(stub.Generate(ask())))
    await until(lambda: pair[1].submits)
    draining = asyncio.create_task(router.dispatcher.drain(60))
    await asyncio.sleep(0)
    code, details, word = await refused(stub.Generate(ask()))
    assert (code, word) == (grpc.StatusCode.UNAVAILABLE, "service_unavailable")
    assert "shutting down" in details
    assert not draining.done()
    pair[1].go.set()
    assert len(tokens_of(await running)) == 5
    await draining


BAD = [
    (GenerateRequest(model="other", text="x"), grpc.StatusCode.NOT_FOUND, "model_not_found", "'other'"),
    (GenerateRequest(), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request", "no prompt"),
    (GenerateRequest(token_ids=TokenIds()), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request", "empty"),
    (
        GenerateRequest(token_ids=TokenIds(ids=[5] * 4096)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "context_length_exceeded",
        "4096",
    ),
    (GenerateRequest(token_ids=TokenIds(ids=[2048])), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request", "2048"),
    (GenerateRequest(text="x", n=9), grpc.StatusCode.INVALID_ARGUMENT, "invalid_request", "n is 9"),
    (
        GenerateRequest(text="x", sampling=SamplingParams(temperature=3)),
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid_request",
        "temperature is 3",
    ),
    (
        GenerateRequest(chat=ChatMessages(messages=[ChatMessage(role="user", content="x")]), echo=True),
        grpc.StatusCode.INVALID_ARGUMENT,
        "invalid_request",
        "echo",
    ),
    *(
        (request, grpc.StatusCode.INVALID_ARGUMENT, "invalid_request", message)
        for request, message in (
            (GenerateRequest(text="x", request_label="a" * 129), "request_label has 129 characters"),
            (GenerateRequest(chat=ChatMessages(messages=[ChatMessage()] * 4097)), "messages holds 4097 messages"),
            *(
                (GenerateRequest(text="x", sampling=SamplingParams(structured_outputs=asked)), message)
                for asked, message in (
                    (StructuredOutputs(), "structured_outputs holds no constraint"),
                    (StructuredOutputs(json_object=False), "structured_outputs.json_object is false"),
                    (StructuredOutputs(json_schema="{"), "structured_outputs.json_schema is not valid JSON"),
                    (StructuredOutputs(json_schema="3"), "is JSON, but no object"),
                    (StructuredOutputs(json_schema='{"a":' * 65 + "1" + "}" * 65), "more than 64 levels deep"),
                    (StructuredOutputs(json_schema='{"a":' * 9999), "json_schema is nested more than 64"),
                    (StructuredOutputs(structural_tag=" "), "structured_outputs.structural_tag is empty"),
                    (StructuredOutputs(regex="a\0"), "a NUL character"),
                    (StructuredOutputs(choice={"options": [""]}), "an empty text"),
                    (StructuredOutputs(choice={"options": ["a" * 9999] * 7}), "69993 bytes; at most 65536"),
                )
            ),
        )
    ),
]


@pytest.mark.parametrize(("request_", "code", "word", "message"), BAD, ids=[entry[-1] for entry in BAD])
async def test_a_bad_request_is_refused_by_name_and_leaves_the_router_serving(
    router: Router,
    stub: InferenceAsyncStub,
    pair: Pair,
    request_: GenerateRequest,
    code: grpc.StatusCode,
    word: str,
    message: str,
) -> None:
    for call in (stub.Generate(request_), stub.GenerateUnary(request_)):
        got_code, details, got_word = await refused(call)
        assert (got_code, got_word) == (code, word)
        assert message in details
    assert not pair[0].submits
    assert len(tokens_of([await stub.GenerateUnary(ask())])) == 5
    router.assert_idle()


async def test_without_workers_a_call_is_refused_at_once(router: Router, stub: InferenceAsyncStub) -> None:
    code, details, word = await refused(stub.Generate(ask()))
    assert (code, word) == (grpc.StatusCode.UNAVAILABLE, "service_unavailable")
    assert "no prefill and no decode worker are ready" in details


async def test_bytes_that_are_no_message_are_the_callers_fault(router: Router) -> None:
    async with grpc.aio.insecure_channel(router.address) as channel:
        for call in (
            channel.unary_unary("/segue.v1.Inference/GenerateUnary")(b"\xff\xff\xff"),  # type: ignore[call-arg]
            channel.unary_stream("/segue.v1.Inference/Generate")(b"\xff\xff\xff"),  # type: ignore[call-arg]
            channel.unary_unary("/segue.v1.Inference/Tokenize")(b"\xff\xff\xff"),  # type: ignore[call-arg]
        ):
            status, message, word = await refused(call)
            assert (status, word) == (grpc.StatusCode.INVALID_ARGUMENT, "undecodable_request")
            assert "3 bytes" in message


async def test_a_reader_that_does_not_read_is_ended_and_holds_up_nobody(codec: TextCodec) -> None:
    limits = Limits(max_write_buffer_bytes=50_000)
    async with running_router(codec, limits=limits) as router:
        _, decode = await router.attach_pair()
        options = [("grpc.use_local_subchannel_pool", 1)]
        # Else what it takes unread grows with the pace, and all 32,000 tokens may find room on the way.
        small_window = [*options, ("grpc.http2.bdp_probe", 0)]
        async with (
            grpc.aio.insecure_channel(router.address, options=small_window) as slow_channel,
            grpc.aio.insecure_channel(router.address, options=options) as other_channel,
        ):
            slow = InferenceStub(slow_channel).Generate(ask(4000, n=8))
            await until(lambda: len(decode.submits) == 8)
            for _ in range(5):
                assert tokens_of(await collect(InferenceStub(other_channel).Generate(ask(5))))
            await until(lambda: len(decode.aborted_at_s) == 8, timeout_s=240)
            with pytest.raises(grpc.aio.AioRpcError, match="reads too slowly") as caught:
                await collect(slow)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            router.assert_idle()
