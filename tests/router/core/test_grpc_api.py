"""``segue.v1.Inference`` over a real wire, with two scripted workers behind it: every kind of answer."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import grpc.aio
import pytest

from segue.proto.inference_pb2 import (
    ChatMessage,
    ChatMessages,
    GenerateRequest,
    ListModelsRequest,
    Path,
    TokenIds,
    TokenizeRequest,
)
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
from segue.router.text.tokenizer import TextCodec
from tests.router.core.outputs import one_token
from tests.router.core.scripted import EOS, Router, until
from tests.router.core.scripted_answers import counting, telling

if TYPE_CHECKING:  # A name of the stubs for the type checker only.
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub
from tests.router.core.calls import PROMPT, Pair, ask, collect, refused, text_of, tokens_of

STOP, LENGTH = FinishReason.FINISH_REASON_STOP, FinishReason.FINISH_REASON_LENGTH


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


async def test_a_client_that_reads_late_gets_everything_in_fewer_messages(
    router: Router, stub: InferenceAsyncStub, pair: Pair
) -> None:
    call = stub.Generate(ask(3000, logprobs=2))
    await until(lambda: not router.dispatcher.running_requests and pair[1].submits, timeout_s=30)
    responses = await collect(call)
    assert tokens_of(responses) == counting(PROMPT, SamplingParams(max_tokens=3000))[:3000]
    assert len(responses) < 2000


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
