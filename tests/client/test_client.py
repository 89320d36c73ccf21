"""The typed client against a real router with scripted workers."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import numpy as np
import pytest
import pytest_asyncio

from segue.base.errors import (
    Cancelled,
    ClientFault,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    PayloadTooLarge,
    SegueError,
    SettingsError,
    Unauthenticated,
    Unavailable,
)
from segue.client import Connection, SegueClient
from segue.client.errors import from_rpc_error
from segue.client.messages import build_request
from segue.proto.inference_pb2 import GenerateRequest, Path, TokenIds
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import Router, ScriptedWorker, until
from tests.router.core.scripted_answers import counting

PROMPT = [5, 6, 7, 8]


@pytest_asyncio.fixture
async def pair(router: Router) -> tuple[ScriptedWorker, ScriptedWorker]:
    return await router.attach_pair()


@pytest_asyncio.fixture
async def client(router: Router) -> AsyncIterator[SegueClient]:
    async with SegueClient(router.address) as connected:
        yield connected


Pair = tuple[ScriptedWorker, ScriptedWorker]


async def test_a_stream_and_an_answer_say_the_same(client: SegueClient, pair: Pair, codec: TextCodec) -> None:
    answer = await client.generate(PROMPT, max_tokens=6, temperature=0.0)
    deltas = [delta async for delta in client.stream(PROMPT, max_tokens=6, temperature=0.0)]
    expected = tuple(counting(PROMPT, SamplingParams(max_tokens=6))[:6])
    assert answer.token_ids == expected
    assert tuple(token for delta in deltas for token in delta.token_ids) == expected
    assert "".join(delta.text for delta in deltas) == answer.text == codec.decode(expected)
    assert [delta.finish_reason for delta in deltas] == [None] * (len(deltas) - 1) + ["length"]
    assert answer.finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.output_tokens) == (4, 6)
    assert answer.timings.path == Path.PATH_SEEDED


@pytest.mark.parametrize(
    "prompt", [PROMPT, tuple(PROMPT), np.array(PROMPT), list(np.array(PROMPT))], ids=["list", "tuple", "array", "numpy"]
)
async def test_token_ids_may_come_in_any_sequence(client: SegueClient, pair: Pair, prompt: list[int]) -> None:
    await client.generate(prompt, max_tokens=2)
    (submit,) = pair[0].submits.values()
    assert list(submit.input_token_ids) == PROMPT


async def test_text_and_chats_are_prompts_too(client: SegueClient, pair: Pair, codec: TextCodec) -> None:
    await client.generate("Once upon a time", max_tokens=2)
    await client.generate([{"role": "user", "content": "hello"}], max_tokens=2)
    text, chat = pair[0].submits.values()
    assert list(text.input_token_ids) == codec.encode("Once upon a time")
    assert list(chat.input_token_ids) == codec.encode_chat([{"role": "user", "content": "hello"}])


@pytest.mark.parametrize("prompt", [[5, "six"], [5, None], [{"role": "user", "content": "x"}, 5], [5.5]])
async def test_a_prompt_of_mixed_kinds_is_refused_not_thinned(
    client: SegueClient, pair: Pair, prompt: list[object]
) -> None:
    with pytest.raises(TypeError):
        await client.generate(prompt, max_tokens=2)  # type: ignore[arg-type]
    assert not pair[0].submits


async def test_an_unknown_parameter_is_refused(client: SegueClient, pair: Pair) -> None:
    with pytest.raises(ValueError, match="temprature"):
        await client.generate("x", temprature=1)
    with pytest.raises(ValueError, match="temprature"):
        async for _ in client.stream("x", temprature=1):
            pass


async def test_leaving_a_stream_early_frees_the_workers(router: Router, client: SegueClient, pair: Pair) -> None:
    stream = client.stream(PROMPT, max_tokens=4000)
    async for delta in stream:
        assert delta.token_ids
        pair[1].go.clear()
        break
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: router.dispatcher.running_requests == 0)
    router.assert_idle()


async def test_several_answers_come_side_by_side(client: SegueClient, pair: Pair) -> None:
    deltas = [delta async for delta in client.stream(PROMPT, n=3, max_tokens=4, seed=2)]
    for index in range(3):
        tokens = [token for delta in deltas if delta.index == index for token in delta.token_ids]
        assert tokens == counting(PROMPT, SamplingParams(max_tokens=4, seed=2 + index))[:4]


async def test_the_raw_call_covers_the_rest(client: SegueClient, pair: Pair) -> None:
    sampling = SamplingParams(max_tokens=3, logprobs=1)
    response = await client.generate_raw(GenerateRequest(token_ids=TokenIds(ids=PROMPT), n=2, sampling=sampling))
    assert [len(choice.logprobs) for choice in response.choices] == [3, 3]


async def test_models_and_tokens_can_be_asked_for(client: SegueClient, codec: TextCodec) -> None:
    assert await client.models() == ["tiny"]
    assert await client.tokenize("Once upon") == codec.encode("Once upon")
    with pytest.raises(ModelNotFound, match="'other'"):
        await client.tokenize("x", model="other")


async def test_what_went_wrong_is_in_the_errors_type(client: SegueClient, pair: Pair) -> None:
    with pytest.raises(ModelNotFound, match="'other'"):
        await client.generate("x", model="other")
    with pytest.raises(InvalidRequest, match="temperature is 7"):
        await client.generate("x", temperature=7.0)
    with pytest.raises(InvalidRequest, match="4096") as caught:
        await client.generate([5] * 4096)
    assert caught.value.code == "context_length_exceeded"
    pair[1].go.clear()
    with pytest.raises(DeadlineExceeded):
        await client.generate(PROMPT, max_tokens=3, timeout_s=0.2)
    with pytest.raises(DeadlineExceeded):
        async for _ in client.stream(PROMPT, max_tokens=3, timeout_s=0.2):
            pass


async def test_a_router_that_is_not_there_is_unavailable() -> None:
    async with SegueClient("127.0.0.1:1", default_timeout_s=5) as client:
        with pytest.raises(Unavailable):
            await client.generate("x")


async def test_a_request_that_its_task_gives_up_is_cancelled_in_the_cluster(
    router: Router, client: SegueClient, pair: Pair
) -> None:
    pair[1].go.clear()
    running = asyncio.create_task(client.generate(PROMPT, max_tokens=4))
    await until(lambda: pair[1].submits)
    running.cancel()
    await until(lambda: pair[1].aborted_at_s)
    router.assert_idle()


@pytest.mark.parametrize(
    "error",
    [
        ClientFault("m"), InvalidRequest("m"), Unauthenticated("m"), ModelNotFound("m"), PayloadTooLarge("m"),
        Overloaded("m"), Unavailable("m"), DeadlineExceeded("m"), Cancelled("m"), InternalError("m"),
        InvalidRequest("m", code="context_length_exceeded"),
    ],
    ids=lambda error: f"{type(error).__name__}-{error.code}",
)  # fmt: skip
@pytest.mark.parametrize("told", [True, False])
def test_every_error_of_the_router_comes_back_as_itself(error: SegueError, told: bool) -> None:
    metadata = grpc.aio.Metadata(("segue-error-code", error.code)) if told else grpc.aio.Metadata()
    broken = grpc.aio.AioRpcError(
        error.grpc_status, grpc.aio.Metadata(), metadata, details="m", debug_error_string=None
    )
    back = from_rpc_error(broken)
    if isinstance(error, Cancelled) and not told:
        assert isinstance(back, Unavailable)  # Not the router's: see below.
        return
    assert back.message == "m"
    assert back.grpc_status is error.grpc_status
    if told:
        assert back.code == error.code
        # A bad request may be told more exactly than it was raised, never as another kind of fault.
        assert isinstance(back, ClientFault) if isinstance(error, ClientFault) else type(back) is type(error)


def test_a_refusal_says_when_to_come_back() -> None:
    metadata = grpc.aio.Metadata(("segue-error-code", "overloaded"), ("retry-after-ms", "2500"))
    status = grpc.StatusCode.RESOURCE_EXHAUSTED
    back = from_rpc_error(grpc.aio.AioRpcError(status, grpc.aio.Metadata(), metadata, "busy", None))
    assert isinstance(back, Overloaded)
    assert back.retry_after_s == 2.5


def test_a_cancellation_that_is_not_the_clients_means_ask_again() -> None:
    bare = grpc.aio.AioRpcError(grpc.StatusCode.CANCELLED, grpc.aio.Metadata(), grpc.aio.Metadata(), "CANCELLED", None)
    back = from_rpc_error(bare)
    assert isinstance(back, Unavailable)
    assert "ask again" in back.message


async def test_a_call_that_a_stopping_router_has_received_and_not_begun_is_unavailable() -> None:
    loop, asked = asyncio.get_running_loop(), threading.Event()
    port: asyncio.Future[int] = loop.create_future()

    async def serve() -> None:
        server = grpc.aio.server()
        bound = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        loop.call_soon_threadsafe(port.set_result, bound)
        asked.wait()  # Its loop stands still: gRPC's own thread receives the call, and nobody takes it.
        await server.stop(None)

    serving = asyncio.create_task(asyncio.to_thread(asyncio.run, serve()))
    try:
        async with SegueClient(f"127.0.0.1:{await port}") as client:
            asking = asyncio.create_task(client.generate(PROMPT, max_tokens=1, timeout_s=60.0))
            await asyncio.sleep(0.2)  # Should the call come later than that, it finds nobody: unavailable, too.
            asked.set()
            with pytest.raises(Unavailable):
                await asking
    finally:
        asked.set()
        await serving


@pytest.mark.parametrize("address", ["10.1.2.3:9000", "router.example:9000"])
def test_an_api_key_leaves_this_machine_in_plain_text_only_when_told_to(address: str) -> None:
    with pytest.raises(SettingsError, match="in plain text"):
        Connection(address, api_key="sk-segue-secret")
    assert Connection(address, api_key="sk-segue-secret", plain_text_key=True).metadata()
    assert "secret" not in repr(Connection("127.0.0.1:9000", api_key="sk-segue-secret"))


def test_a_requests_class_priority_and_tenant_are_keyword_arguments() -> None:
    request = build_request("hello", "", 1, {"max_tokens": 3, "slo_class": "batch", "priority": -2, "tenant": "alice"})
    assert (request.slo_class, request.priority, request.tenant) == ("batch", -2, "alice")
    assert request.sampling.max_tokens == 3
