"""``segue.v1.Inference`` over a real wire, with two scripted workers behind it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import TYPE_CHECKING, Any

import grpc.aio
import pytest
import pytest_asyncio

from segue.proto.inference_pb2 import (
    ChatMessage,
    ChatMessages,
    GenerateRequest,
    GenerateResponse,
    ListModelsRequest,
    Path,
    TokenIds,
    TokenizeRequest,
)
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import FinishReason, SamplingParams, StructuredOutputs
from segue.router.limits import Limits
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import EOS, Router, ScriptedWorker, counting, one_token, running_router, telling, until

if TYPE_CHECKING:  # A name of the stubs for the type checker only.
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub

PROMPT = (5, 6, 7, 8)
STOP, LENGTH = FinishReason.FINISH_REASON_STOP, FinishReason.FINISH_REASON_LENGTH
Pair = tuple[ScriptedWorker, ScriptedWorker]


@pytest_asyncio.fixture
async def stub(router: Router) -> AsyncIterator[InferenceAsyncStub]:
    async with grpc.aio.insecure_channel(router.address) as channel:
        yield InferenceStub(channel)


@pytest_asyncio.fixture
async def pair(router: Router) -> Pair:
    return await router.attach_pair()


def ask(max_tokens: int = 5, *, n: int = 0, echo: bool = False, **sampling: Any) -> GenerateRequest:
    params = SamplingParams(max_tokens=max_tokens, **sampling)
    return GenerateRequest(token_ids=TokenIds(ids=PROMPT), sampling=params, n=n, echo=echo, request_label="mine")


async def collect(call: AsyncIterable[GenerateResponse]) -> list[GenerateResponse]:
    return [response async for response in call]


def tokens_of(responses: Sequence[GenerateResponse], index: int = 0) -> list[int]:
    deltas = [choice for response in responses for choice in response.choices if choice.index == index]
    return [token for delta in deltas for token in delta.token_ids]


def text_of(responses: Sequence[GenerateResponse], index: int = 0) -> str:
    return "".join(choice.text for response in responses for choice in response.choices if choice.index == index)


async def refused(call: Any) -> tuple[grpc.StatusCode, str, str]:
    """Status, message and the word for programs of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError):
        if hasattr(call, "__aiter__"):
            await collect(call)
        else:
            await call
    metadata = dict(await call.trailing_metadata())
    return await call.code(), await call.details(), str(metadata.get("segue-error-code"))


async def test_a_stream_is_the_workers_answer_part_by_part(
    router: Router, stub: InferenceAsyncStub, pair: Pair, codec: TextCodec
) -> None:
    expected = counting(PROMPT, SamplingParams(max_tokens=5))[:5]
    responses = await collect(stub.Generate(ask()))
    assert tokens_of(responses) == expected
    assert text_of(responses) == codec.decode(expected)
    assert [response.HasField("usage") for response in responses] == [False] * (len(responses) - 1) + [True]
    assert {response.request_label for response in responses} == {"mine"}
    assert {response.model for response in responses} == {"tiny"}
    last = responses[-1]
    assert last.choices[0].finish_reason == LENGTH
    assert (last.usage.prompt_tokens, last.usage.cached_prompt_tokens, last.usage.output_tokens) == (4, 2, 5)
    assert (last.timings.path, last.timings.transport) == (Path.PATH_SEEDED, "grpc")
    assert (last.timings.prefill_worker, last.timings.decode_worker) == ("prefill-0", "decode-0")
    assert last.timings.transfer_bytes == 4096
    assert last.timings.ttft_s > 0
    router.assert_idle()


async def test_the_clients_label_never_reaches_a_worker(stub: InferenceAsyncStub, pair: Pair) -> None:
    await stub.GenerateUnary(ask())
    for worker in pair:
        (submit,) = worker.submits.values()
        assert b"mine" not in submit.SerializeToString()
        assert submit.request_id.startswith("req-")


async def test_unary_is_the_same_answer_in_one_message(stub: InferenceAsyncStub, pair: Pair) -> None:
    whole = await stub.GenerateUnary(ask(40))
    parts = await collect(stub.Generate(ask(40)))
    (choice,) = whole.choices
    assert list(choice.token_ids) == tokens_of(parts)
    assert choice.text == text_of(parts)
    assert choice.finish_reason == LENGTH
    assert whole.usage == parts[-1].usage


async def test_decode_is_seeded_with_token_1_and_the_ticket(stub: InferenceAsyncStub, pair: Pair) -> None:
    prefill, decode = pair
    await stub.GenerateUnary(ask(stop=["never"], temperature=0))
    (first,), (second,) = prefill.submits.values(), decode.submits.values()
    token_1 = counting(PROMPT, SamplingParams(max_tokens=5))[0]
    assert (tuple(first.input_token_ids), first.offer_kv) == (PROMPT, True)
    assert first.sampling == SamplingParams(max_tokens=1, min_tokens=0, temperature=0)
    assert tuple(second.input_token_ids) == (*PROMPT, token_1)
    assert second.ticket == prefill.offered[f"kv-{first.request_id}"]
    assert second.sampling.max_tokens == 4
    assert not second.sampling.stop
    assert 0 < second.timeout_s <= first.timeout_s <= 600


@pytest.mark.parametrize("seed", [0, 11])
async def test_the_exact_path_shows_token_1_once(stub: InferenceAsyncStub, pair: Pair, seed: int) -> None:
    responses = await collect(stub.Generate(ask(seed=seed)))
    assert tokens_of(responses) == counting(PROMPT, SamplingParams(max_tokens=5, seed=seed))[:5]
    timings = responses[-1].timings
    assert (timings.path, timings.path_reason) == (Path.PATH_EXACT, "seed")


async def test_a_decode_worker_that_replays_another_token_1_fails_the_request(
    router: Router, stub: InferenceAsyncStub
) -> None:
    await router.attach_pair()
    router.workers["decode-0"].decode = lambda submit: [one_token(submit, 999)]  # type: ignore[method-assign]
    code, details, word = await refused(stub.Generate(ask(seed=3)))
    assert (code, word) == (grpc.StatusCode.INTERNAL, "internal_error")
    assert "999" in details
    await until(lambda: router.workers["decode-0"].aborted_at_s)
    router.assert_idle()


async def test_several_answers_have_seeds_and_places_of_their_own(stub: InferenceAsyncStub, pair: Pair) -> None:
    responses = await collect(stub.Generate(ask(n=3, seed=11)))
    for index in range(3):
        expected = counting(PROMPT, SamplingParams(max_tokens=5, seed=11 + index))[:5]
        assert tokens_of(responses, index) == expected
    assert sum(bool(choice.finish_reason) for response in responses for choice in response.choices) == 3
    assert responses[-1].usage.output_tokens == 15
    assert sorted(submit.sampling.seed for submit in pair[0].submits.values()) == [11, 12, 13]


async def test_several_answers_to_the_largest_seed(router: Router, stub: InferenceAsyncStub, pair: Pair) -> None:
    response = await stub.GenerateUnary(ask(n=3, seed=2**63 - 1, temperature=0))
    assert len(response.choices) == 3
    router.assert_idle()


async def test_echo_puts_the_prompt_before_each_answer(stub: InferenceAsyncStub, pair: Pair, codec: TextCodec) -> None:
    response = await stub.GenerateUnary(ask(n=2, echo=True))
    for choice in response.choices:
        assert choice.text == codec.decode(PROMPT) + codec.decode(choice.token_ids)
        assert len(choice.token_ids) == 5
    request = GenerateRequest(text="Once upon", sampling=SamplingParams(max_tokens=2), echo=True)
    (choice,) = (await stub.GenerateUnary(request)).choices
    assert choice.text.startswith("Once upon")


async def test_logprobs_come_with_every_token(stub: InferenceAsyncStub, pair: Pair) -> None:
    for request in (ask(logprobs=2), ask(logprobs=2, seed=4)):
        (choice,) = (await stub.GenerateUnary(request)).choices
        assert [entry.sampled.token_id for entry in choice.logprobs] == list(choice.token_ids)
        assert [len(entry.top) for entry in choice.logprobs] == [2] * 5


async def test_a_stop_string_ends_the_answer_and_frees_decode(
    router: Router, stub: InferenceAsyncStub, pair: Pair
) -> None:
    codec = router.models["tiny"].codec
    story = codec.encode("the first line\nthe second line and more of it", add_special_tokens=False)
    for worker in pair:
        worker.answer = telling(story, PROMPT)
    responses = await collect(stub.Generate(ask(len(story), stop=["\nthe sec", "zzz"])))
    assert text_of(responses) == "the first line"
    last = responses[-1].choices[0]
    assert (last.finish_reason, last.stop_string) == (STOP, "\nthe sec")
    assert responses[-1].usage.output_tokens == len(tokens_of(responses)) < len(story)
    router.assert_idle()


async def test_an_endless_worker_is_aborted_when_a_stop_string_came(
    router: Router, stub: InferenceAsyncStub, pair: Pair
) -> None:
    codec = router.models["tiny"].codec
    story = codec.encode("a b c d e f", add_special_tokens=False)
    for worker in pair:
        worker.answer = telling([*story, *[300] * 500], PROMPT)
    await stub.GenerateUnary(ask(500, stop=[" d"]))
    await until(lambda: pair[1].aborted_at_s)


@pytest.mark.parametrize("at", [0, 3])
async def test_a_stop_token_counts_but_is_not_text(
    router: Router, stub: InferenceAsyncStub, pair: Pair, codec: TextCodec, at: int
) -> None:
    for worker in pair:
        worker.answer = telling([*[300, 301, 302][:at], EOS], PROMPT)
    responses = await collect(stub.Generate(ask(8)))
    assert tokens_of(responses) == [*[300, 301, 302][:at], EOS]
    assert text_of(responses) == codec.decode([300, 301, 302][:at])
    last = responses[-1]
    assert (last.choices[0].finish_reason, last.choices[0].stop_token_id) == (STOP, EOS)
    assert last.timings.path == (Path.PATH_SEEDED if at else Path.PATH_PREFILL_ONLY)
    router.assert_idle()


async def test_one_token_needs_no_decode_worker(stub: InferenceAsyncStub, pair: Pair) -> None:
    response = await stub.GenerateUnary(ask(1))
    assert response.timings.path == Path.PATH_PREFILL_ONLY
    assert response.timings.decode_worker == ""
    assert not pair[1].submits
    assert not pair[0].offered


async def test_the_calls_deadline_ends_it_on_both_sides(router: Router, stub: InferenceAsyncStub, pair: Pair) -> None:
    pair[1].go.clear()
    code, _, _ = await refused(stub.Generate(ask(), timeout=0.3))
    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    (submit,) = pair[1].submits.values()
    assert submit.timeout_s <= 0.3
    await until(lambda: submit.request_id in pair[1].aborted_at_s)
    router.assert_idle()


async def test_the_routers_own_deadline_says_how_far_it_came(codec: TextCodec) -> None:
    limits = Limits(default_timeout_s=0.2)
    async with (
        running_router(codec, limits=limits) as router,
        grpc.aio.insecure_channel(router.address) as channel,
    ):
        _, decode = await router.attach_pair()
        decode.go.clear()
        code, details, word = await refused(InferenceStub(channel).GenerateUnary(ask()))
        assert (code, word) == (grpc.StatusCode.DEADLINE_EXCEEDED, "deadline_exceeded")
        assert details == "the request's 0.2 s passed during decode, after 1 output tokens"
        await until(lambda: decode.aborted_at_s)
        router.assert_idle()


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
    assert min(delays_s) < 0.1  # The cores may be busy; not every time.
    assert max(delays_s) < 2
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


async def test_a_client_that_reads_late_gets_everything_in_fewer_messages(
    router: Router, stub: InferenceAsyncStub, pair: Pair
) -> None:
    call = stub.Generate(ask(3000, logprobs=2))
    await until(lambda: not router.dispatcher.running_requests and pair[1].submits, timeout_s=30)
    responses = await collect(call)
    assert tokens_of(responses) == counting(PROMPT, SamplingParams(max_tokens=3000))[:3000]
    assert len(responses) < 2000


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
    draining = asyncio.create_task(router.dispatcher.drain(5))
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


async def test_models_and_tokens_can_be_asked_for(stub: InferenceAsyncStub, codec: TextCodec, pair: Pair) -> None:
    (model,) = (await stub.ListModels(ListModelsRequest())).models
    assert (model.id, model.max_model_len_tokens, model.created_unix_s) == ("tiny", 4096, 7)
    tokenized = await stub.Tokenize(TokenizeRequest(text="Once upon a time"))
    assert list(tokenized.token_ids) == codec.encode("Once upon a time")
    assert tokenized.max_model_len_tokens == 4096
    chat = ChatMessages(messages=[ChatMessage(role="user", content="hello")])
    tokenized = await stub.Tokenize(TokenizeRequest(model="tiny", chat=chat))
    assert list(tokenized.token_ids) == codec.encode_chat([{"role": "user", "content": "hello"}])
    await stub.GenerateUnary(GenerateRequest(chat=chat, sampling=SamplingParams(max_tokens=2)))
    (submit,) = pair[0].submits.values()
    assert list(submit.input_token_ids) == list(tokenized.token_ids)
    for request in (TokenizeRequest(), TokenizeRequest(model="other", text="x")):
        code, _, _ = await refused(stub.Tokenize(request))
        assert code in {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


async def test_many_at_once_get_each_their_own(router: Router, stub: InferenceAsyncStub, pair: Pair) -> None:
    async def one(number: int) -> None:
        prompt = (5, 6, number + 7)
        request = GenerateRequest(token_ids=TokenIds(ids=prompt), sampling=SamplingParams(max_tokens=20))
        responses = await collect(stub.Generate(request))
        assert tokens_of(responses) == counting(prompt, SamplingParams(max_tokens=20))[:20]

    await asyncio.gather(*map(one, range(40)))
    router.assert_idle()


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
        async with (
            grpc.aio.insecure_channel(router.address, options=options) as slow_channel,
            grpc.aio.insecure_channel(router.address, options=options) as other_channel,
        ):
            slow = InferenceStub(slow_channel).Generate(ask(4000, n=8))
            await until(lambda: len(decode.submits) == 8)
            for _ in range(5):
                assert tokens_of(await collect(InferenceStub(other_channel).Generate(ask(5))))
            await until(lambda: len(decode.aborted_at_s) == 8, timeout_s=60)
            with pytest.raises(grpc.aio.AioRpcError, match="reads too slowly") as caught:
                await collect(slow)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            router.assert_idle()
