"""OpenAI's own SDK, unmodified, against the API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import openai
import pytest

from segue.base.errors import Unavailable


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


async def test_completion(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="org/tiny", prompt="Hello", max_tokens=3)
    assert answer.choices[0].text == "0w0 0w1 0w2 "
    assert answer.choices[0].finish_reason == "length"
    assert answer.id == "cmpl-req-0"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens + 3 == answer.usage.total_tokens
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 1
    extra = answer.model_extra or {}
    assert extra["segue"]["request_id"] == "req-0"
    timings = extra["segue"]["timings"]
    assert (timings["path"], timings["transport"], timings["ttft_s"], timings["transfer_bytes"]) == (
        "seeded",
        "grpc",
        0.1,
        7,
    )


async def test_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="org/tiny",
        messages=[
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        ],
        max_completion_tokens=2,
        n=2,
    )
    assert [choice.message.content for choice in answer.choices] == ["0w0 0w1 ", "1w0 1w1 "]
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4


async def test_streamed_completion(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model="org/tiny", prompt="Hello", max_tokens=3, stream=True)
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].text for chunk in chunks) == "0w0 0w1 0w2 "
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None, None, "length"]
    assert (chunks[-1].model_extra or {})["segue"]["timings"]["path"] == "seeded"
    assert all("segue" not in (chunk.model_extra or {}) for chunk in chunks[:-1])
    assert all(chunk.usage is None for chunk in chunks)


async def test_streamed_chat_with_usage(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="org/tiny",
        messages=[{"role": "user", "content": "Hi"}],
        max_tokens=2,
        n=2,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    *choices, usage = chunks
    assert [chunk.choices[0].delta.role for chunk in choices[:4]] == ["assistant", None, "assistant", None]
    texts = ["", ""]
    for chunk in choices:
        assert chunk.usage is None
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == ["0w0 0w1 ", "1w0 1w1 "]
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 4
    assert (usage.model_extra or {})["segue"]["request_id"] == "req-0"


async def test_several_prompts_number_their_choices_prompt_by_prompt(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="org/tiny", prompt=["a", "b"], n=2, max_tokens=1)
    assert [(choice.index, choice.text) for choice in answer.choices] == [
        (0, "0w0 "),
        (1, "1w0 "),
        (2, "0w0 "),
        (3, "1w0 "),
    ]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 4
    segue = (answer.model_extra or {})["segue"]
    assert [one["request_id"] for one in segue["prompts"]] == ["req-0", "req-1"]

    stream = await client.completions.create(
        model="org/tiny", prompt=[[5, 6], [7]], n=2, max_tokens=2, stream=True, echo=True
    )
    texts = [""] * 4
    async for chunk in stream:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert [text[-8:] for text in texts] == ["0w0 0w1 ", "1w0 1w1 "] * 2
    assert len(texts[0]) == len("0w0 0w1 ") + 2


async def test_logprobs(client: openai.AsyncOpenAI) -> None:
    legacy = await client.completions.create(model="org/tiny", prompt="a", max_tokens=2, logprobs=2)
    found = legacy.choices[0].logprobs
    assert found is not None
    assert found.token_logprobs == [-0.5, -0.5]
    assert found.tokens is not None
    assert found.text_offset == [0, len(found.tokens[0])]
    assert found.top_logprobs is not None
    assert len(found.top_logprobs[0]) == 3

    stream = await client.completions.create(model="org/tiny", prompt="a", max_tokens=2, logprobs=0, stream=True)
    offsets = [chunk.choices[0].logprobs.text_offset async for chunk in stream if chunk.choices[0].logprobs]
    assert offsets == [[0], [len(found.tokens[0])]]

    chat = await client.chat.completions.create(
        model="org/tiny",
        messages=[{"role": "user", "content": "a"}],
        max_tokens=2,
        logprobs=True,
        top_logprobs=1,
    )
    content = chat.choices[0].logprobs
    assert content is not None
    assert content.content is not None
    assert [one.logprob for one in content.content] == [-0.5, -0.5]
    assert content.content[0].bytes == list(content.content[0].token.encode())
    assert len(content.content[0].top_logprobs) == 1


async def test_models(client: openai.AsyncOpenAI) -> None:
    listed = await client.models.list()
    assert [model.id for model in listed.data] == ["org/tiny"]
    assert (await client.models.retrieve("org/tiny")).id == "org/tiny"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("other")


async def test_errors_are_the_sdks_own(client: openai.AsyncOpenAI, service: object) -> None:
    with pytest.raises(openai.NotFoundError, match="'other' is not served here; served: 'org/tiny'"):
        await client.completions.create(model="other", prompt="a")
    with pytest.raises(openai.BadRequestError) as bad:
        await client.completions.create(model="org/tiny", prompt="a", n=9)
    assert bad.value.param == "n"
    service.refusal = Unavailable("no workers")  # type: ignore[attr-defined]
    with pytest.raises(openai.InternalServerError) as down:
        await client.completions.create(model="org/tiny", prompt="a")
    assert down.value.status_code == 503


async def test_the_synchronous_client_works_too(url: str) -> None:
    def use() -> tuple[str, str]:
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
            unary = client.chat.completions.create(
                model="org/tiny", messages=[{"role": "user", "content": "a"}], max_tokens=2
            )
            stream = client.completions.create(model="org/tiny", prompt="a", max_tokens=2, stream=True)
            return unary.choices[0].message.content or "", "".join(chunk.choices[0].text for chunk in stream)

    assert await asyncio.to_thread(use) == ("0w0 0w1 ", "0w0 0w1 ")
