"""OpenAI's own SDK, unmodified, against real engines: every way to ask for an answer gives the same answer."""

from __future__ import annotations

from typing import Any

import openai
import pytest

from segue.client import SegueClient
from segue.proto.inference_pb2 import GenerateRequest
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.text.tokenizer import TextCodec
from tests.e2e.asking import PROMPT, UNENDING, greedy, greedy_stream
from tests.e2e.running import ONE_CLUSTER, Cluster

pytestmark = [pytest.mark.engine, ONE_CLUSTER]
MESSAGES: Any = [
    {"role": "system", "content": "Answer in one line."},
    {"role": "user", "content": "What does a decorator do?  "},
]
BLOCK_TOKENS = 128


async def test_a_completion_is_the_same_however_it_is_asked_for(
    cluster: Cluster, sdk: openai.OpenAI, async_sdk: openai.AsyncOpenAI, client: SegueClient
) -> None:
    asked: Any = {"model": cluster.model, "temperature": 0, "max_tokens": 24, "extra_body": UNENDING}
    unary = greedy(sdk, cluster)
    text = unary.choices[0].text
    assert len(text) > 20
    assert unary.choices[0].finish_reason == "length"

    chunks = list(sdk.completions.create(prompt=PROMPT, stream=True, **asked))
    assert "".join(chunk.choices[0].text for chunk in chunks) == text
    assert len(chunks) > 12, "tokens come one by one, not all at the end"
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices[0].finish_reason] == ["length"]

    assert (await async_sdk.completions.create(prompt=PROMPT, **asked)).choices[0].text == text
    stream = await async_sdk.completions.create(prompt=PROMPT, stream=True, **asked)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == text

    over_grpc = await client.generate(PROMPT, temperature=0.0, max_tokens=24, ignore_eos=True)
    assert over_grpc.text == text
    deltas = [delta async for delta in client.stream(PROMPT, temperature=0.0, max_tokens=24, ignore_eos=True)]
    assert "".join(delta.text for delta in deltas) == text
    assert tuple(token for delta in deltas for token in delta.token_ids) == over_grpc.token_ids

    token_ids = await client.tokenize(PROMPT)
    assert greedy(sdk, cluster, token_ids).choices[0].text == text


async def test_a_chat_is_the_same_however_it_is_asked_for(
    cluster: Cluster, sdk: openai.OpenAI, async_sdk: openai.AsyncOpenAI, client: SegueClient, model: str
) -> None:
    asked: Any = {
        "model": cluster.model,
        "messages": MESSAGES,
        "temperature": 0,
        "max_completion_tokens": 24,
        "extra_body": UNENDING,
    }
    unary = sdk.chat.completions.create(**asked)
    text = unary.choices[0].message.content
    assert text is not None
    assert len(text) > 20
    assert unary.choices[0].message.role == "assistant"

    chunks = list(sdk.chat.completions.create(stream=True, **asked))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == text

    assert (await async_sdk.chat.completions.create(**asked)).choices[0].message.content == text
    stream = await async_sdk.chat.completions.create(stream=True, **asked)
    assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == text

    assert (await client.generate(MESSAGES, temperature=0.0, max_tokens=24, ignore_eos=True)).text == text

    from transformers import AutoTokenizer

    rendered = AutoTokenizer.from_pretrained(model).apply_chat_template(
        MESSAGES, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    completion = greedy(sdk, cluster, rendered)
    assert completion.choices[0].text == text
    assert completion.usage is not None
    assert unary.usage is not None
    assert completion.usage.prompt_tokens == unary.usage.prompt_tokens == len(rendered)


def test_n_answers_are_numbered_and_drawn_apart(cluster: Cluster, sdk: openai.OpenAI) -> None:
    asked: Any = {"model": cluster.model, "prompt": PROMPT, "temperature": 0.9, "seed": 5, "max_tokens": 12, "n": 3}
    answers = sdk.completions.create(extra_body=UNENDING, **asked)
    texts = [choice.text for choice in answers.choices]
    assert [choice.index for choice in answers.choices] == [0, 1, 2]
    assert len(set(texts)) == 3
    assert answers.usage is not None
    assert answers.usage.completion_tokens == 36

    assert [choice.text for choice in sdk.completions.create(extra_body=UNENDING, **asked).choices] == texts
    alone = sdk.completions.create(extra_body=UNENDING, **(asked | {"n": 1}))
    assert alone.choices[0].text == texts[0]

    streamed = ["", "", ""]
    for chunk in sdk.completions.create(extra_body=UNENDING, stream=True, **asked):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == texts


def test_completion_logprobs(cluster: Cluster, sdk: openai.OpenAI) -> None:
    prompt, text = readable(sdk, cluster, max_tokens=6)
    answer = greedy(sdk, cluster, prompt, max_tokens=6, logprobs=3).choices[0]
    assert answer.text == text
    found = answer.logprobs
    assert found is not None
    assert found.tokens is not None
    assert found.token_logprobs is not None
    assert found.top_logprobs is not None
    assert found.text_offset is not None
    assert len(found.tokens) == len(found.token_logprobs) == len(found.top_logprobs) == len(found.text_offset) == 6
    assert "".join(found.tokens) == answer.text
    for token, logprob, top, offset in zip(
        found.tokens, found.token_logprobs, found.top_logprobs, found.text_offset, strict=True
    ):
        assert logprob < 0
        assert len(top) == 3  # Greedy: the sampled token is the best of them.
        assert max(top.values()) == top[token] == logprob
        assert answer.text[offset:].startswith(token)

    streamed: list[str] = []
    logprobs: list[float] = []
    for chunk in greedy_stream(sdk, cluster, prompt, max_tokens=6, logprobs=3):
        if chunk.choices[0].logprobs is not None:
            streamed += chunk.choices[0].logprobs.tokens or []
            logprobs += chunk.choices[0].logprobs.token_logprobs or []
    assert streamed == found.tokens
    assert logprobs == pytest.approx(found.token_logprobs, abs=1e-3)


def test_chat_logprobs(cluster: Cluster, sdk: openai.OpenAI) -> None:
    asked: Any = {"model": cluster.model, "messages": MESSAGES, "temperature": 0, "max_tokens": 5, "logprobs": True}
    answer = sdk.chat.completions.create(top_logprobs=4, extra_body=UNENDING, **asked).choices[0]
    assert answer.logprobs is not None
    assert answer.logprobs.content is not None
    # A token may be part of a character: only the bytes can be joined. Of a character that max_tokens cuts off the text
    # has nothing.
    joined = b"".join(bytes(one.bytes or []) for one in answer.logprobs.content)
    assert joined.decode(errors="replace").rstrip("\ufffd") == (answer.message.content or "").rstrip("\ufffd")
    for one in answer.logprobs.content:
        assert [top.logprob for top in one.top_logprobs] == sorted((t.logprob for t in one.top_logprobs), reverse=True)
        assert len(one.top_logprobs) == 4
        assert one.top_logprobs[0].token == one.token
    none = sdk.chat.completions.create(extra_body=UNENDING, **asked).choices[0]
    assert none.logprobs is not None
    assert none.logprobs.content is not None
    assert all(one.top_logprobs == [] for one in none.logprobs.content)


def readable(sdk: openai.OpenAI, cluster: Cluster, max_tokens: int) -> tuple[str, str]:
    """A prompt and its answer, one without broken characters (the model has random weights)."""
    for prompt in (PROMPT, "import asyncio", "class", "The", "return", "for"):
        text = greedy(sdk, cluster, prompt, max_tokens=max_tokens).choices[0].text
        if "\ufffd" not in text:
            return prompt, text
    raise AssertionError("every answer has broken characters; add prompts")


def test_echo(cluster: Cluster, sdk: openai.OpenAI, codec: TextCodec) -> None:
    text = greedy(sdk, cluster).choices[0].text
    assert greedy(sdk, cluster, echo=True).choices[0].text == PROMPT + text
    chunks = list(greedy_stream(sdk, cluster, max_tokens=24, echo=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == PROMPT + text
    assert greedy(sdk, cluster, codec.encode(PROMPT), echo=True).choices[0].text == PROMPT + text


def test_several_prompts(cluster: Cluster, sdk: openai.OpenAI, codec: TextCodec) -> None:
    prompts = [PROMPT, "import asyncio", "class"]
    alone = [greedy(sdk, cluster, prompt).choices[0].text for prompt in prompts]
    together = greedy(sdk, cluster, prompts)
    assert [choice.text for choice in together.choices] == alone
    assert [choice.index for choice in together.choices] == [0, 1, 2]
    ids = [codec.encode(prompt) for prompt in prompts]
    assert [choice.text for choice in greedy(sdk, cluster, ids).choices] == alone
    assert together.usage is not None
    assert together.usage.prompt_tokens == sum(map(len, ids))


def test_usage_counts_the_prompts_cached_tokens(cluster: Cluster, sdk: openai.OpenAI) -> None:
    prompt = [3 + (7 * place) % 1000 for place in range(3 * BLOCK_TOKENS + 10)]

    def usage() -> tuple[int, int | None, int]:
        seen = greedy(sdk, cluster, prompt, max_tokens=4).usage
        assert seen is not None
        assert seen.prompt_tokens_details is not None
        assert seen.total_tokens == seen.prompt_tokens + seen.completion_tokens
        return seen.prompt_tokens, seen.prompt_tokens_details.cached_tokens, seen.completion_tokens

    assert usage() == (len(prompt), 0, 4)
    assert usage() == (len(prompt), 3 * BLOCK_TOKENS, 4)


def test_usage_in_a_stream_comes_if_asked_for(cluster: Cluster, sdk: openai.OpenAI) -> None:
    *chunks, last = greedy_stream(sdk, cluster, max_tokens=5, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.completion_tokens == 5
    assert "segue" in (last.model_extra or {})
    assert all(chunk.usage is None for chunk in chunks)
    assert all(chunk.usage is None for chunk in greedy_stream(sdk, cluster, max_tokens=5))

    *_, chat = sdk.chat.completions.create(
        model=cluster.model,
        messages=MESSAGES,
        max_tokens=3,
        stream=True,
        stream_options={"include_usage": True},
        extra_body=UNENDING,
    )
    assert chat.usage is not None
    assert chat.usage.completion_tokens == 3


def test_models(cluster: Cluster, sdk: openai.OpenAI) -> None:
    (listed,) = sdk.models.list().data
    assert listed.id == cluster.model
    assert sdk.models.retrieve(cluster.model) == listed
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve("another")


def test_the_request_label_comes_back_and_stays_outside(cluster: Cluster, sdk: openai.OpenAI) -> None:
    answers = [
        sdk.completions.with_raw_response.create(
            model=cluster.model, prompt=PROMPT, max_tokens=2, extra_headers={"X-Request-Id": "mine-1"}
        )
        for _ in range(2)
    ]
    assert [answer.headers["x-request-id"] for answer in answers] == ["mine-1", "mine-1"]
    ids = {answer.headers["x-segue-request-id"] for answer in answers}
    assert len(ids) == 2
    assert "mine-1" not in "".join(ids)
    assert {"cmpl-" + request_id for request_id in ids} == {answer.parse().id for answer in answers}


def test_timings_tell_how_it_was_done(cluster: Cluster, sdk: openai.OpenAI) -> None:
    prompt = [5 + (11 * place) % 1000 for place in range(200)]
    answer = greedy(sdk, cluster, prompt, max_tokens=8)
    timings = (answer.model_extra or {})["segue"]["timings"]
    assert (timings["path"], timings["transport"]) == ("seeded", "grpc")
    assert (timings["prefill_worker"], timings["decode_worker"]) == ("prefill-0", "decode-0")
    assert (timings["prefill_computed_tokens"], timings["decode_computed_tokens"]) == (200, 1)
    assert timings["transfer_bytes"] > 0
    for name in ("ttft_s", "prefill_s", "handoff_s", "transfer_s", "decode_s", "itl_mean_s"):
        assert 0 < timings[name] < 5, name
    assert timings["ttft_s"] >= timings["prefill_s"]

    one = (greedy(sdk, cluster, max_tokens=1).model_extra or {})["segue"]["timings"]
    assert (one["path"], one["transport"], one["decode_worker"]) == ("prefill_only", "", "")
    sampled = sdk.completions.create(model=cluster.model, prompt=PROMPT, max_tokens=3, seed=1, extra_body=UNENDING)
    exact = (sampled.model_extra or {})["segue"]["timings"]
    assert (exact["path"], exact["path_reason"]) == ("exact", "seed")


async def test_grpc_gives_n_logprobs_and_echo_too(cluster: Cluster, sdk: openai.OpenAI, client: SegueClient) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=5, ignore_eos=True, logprobs=2)
    request = GenerateRequest(text=PROMPT, n=2, echo=True, request_label="mine-2", sampling=sampling)
    response = await client.generate_raw(request)
    assert response.request_label == "mine-2"
    assert response.model == cluster.model
    text = greedy(sdk, cluster, max_tokens=5).choices[0].text
    choices = sorted(response.choices, key=lambda choice: choice.index)
    assert [choice.text for choice in choices] == [PROMPT + text] * 2
    for choice in choices:
        assert [one.sampled.token_id for one in choice.logprobs] == list(choice.token_ids)
        assert all(one.sampled.rank == 1 and len(one.top) == 2 for one in choice.logprobs)
    assert response.usage.output_tokens == 10
