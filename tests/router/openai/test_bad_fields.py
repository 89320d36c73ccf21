"""A field that can't be served is a 400 that names it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aiohttp import ClientSession

from tests.router.openai.asked import CHAT, COMPLETION, FakeService, post

LONG = list(range(100, 700))


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"max_tokens": "5"}, "max_tokens", "'5'"),
        ({"max_tokens": 5.5}, "max_tokens", "5.5"),
        ({"max_tokens": True}, "max_tokens", "True"),
        ({"max_tokens": -1}, "max_tokens", "-1"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 2**70}, "max_tokens", "less than or equal"),
        ({"max_tokens": 600}, "max_tokens", "The model takes 512"),
        ({"prompt": LONG, "max_tokens": 1}, "prompt", "600 tokens, but the model takes 512"),
        ({"prompt": "x " * 4000}, "prompt", "but the model takes 512"),
        ({"prompt": [2048]}, "prompt", "token id 2048; the model's ids are 0 to 2047"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": [[]]}, "prompt", "empty"),
        ({"prompt": [1, "a"]}, "prompt", "an array of another shape"),
        ({"prompt": [True]}, "prompt", "an array of another shape"),
        ({"prompt": [-1]}, "prompt", "an array of another shape"),
        ({"prompt": None}, "prompt", "prompt is missing"),
        ({"prompt": ["a"] * 33}, "prompt", "33 prompts; it must hold between 1 and 32"),
        ({"n": 0}, "n", "n is 0; it must be between 1 and 8"),
        ({"n": 9}, "n", "n is 9"),
        ({"n": 8, "prompt": ["a"] * 17}, "n", "8 for each of 17 prompts, 136 answers in all; at most 128"),
        (
            {"temperature": 2.5},
            "temperature",
            "temperature is 2.5; it must be a number of at least 0 and at most 2",
        ),
        ({"temperature": -0.1}, "temperature", "-0.1"),
        ({"temperature": "hot"}, "temperature", "'hot'"),
        ({"top_p": 0}, "top_p", "more than 0"),
        ({"top_k": -2}, "top_k", "-2"),
        ({"min_p": 1.1}, "min_p", "1.1"),
        ({"presence_penalty": 3}, "presence_penalty", "3"),
        ({"frequency_penalty": -3}, "frequency_penalty", "-3"),
        ({"repetition_penalty": 0}, "repetition_penalty", "more than 0"),
        ({"repetition_penalty": 1e39}, "repetition_penalty", "inf"),
        ({"min_tokens": 3}, "min_tokens", "at most max_tokens, which is 2"),
        ({"seed": 2**63}, "seed", "less than or equal"),
        ({"stop": ["a"] * 9}, "stop", "9 entries"),
        ({"stop": [""]}, "stop", "a string of 0 characters"),
        ({"stop": ["a" * 257]}, "stop", "257"),
        ({"stop": [1]}, "stop", "1"),
        ({"stop_token_ids": [9999]}, "stop_token_ids", "9999"),
        ({"logprobs": 21}, "logprobs", "21"),
        ({"logprobs": True}, "logprobs", "True"),
        ({"logprobs": 1, "echo": True}, "logprobs", "echo"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x'"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "101"),
        ({"logit_bias": {"9999": 1}}, "logit_bias", "9999"),
        ({"best_of": 3}, "best_of", "best_of is 3"),
        ({"suffix": "end"}, "suffix", "not supported"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
        ({"stream": "yes"}, "stream", "'yes'"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "'yaml'; it must be 'text', 'json_object'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "null"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
            "response_format.json_schema.schema",
            "an integer",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one of json, regex"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs", "it holds json, regex"),
        ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice", "an array of strings"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs", "0 texts"),
        ({"structured_outputs": {"choice": ["a"] * 1025}}, "structured_outputs", "between 1 and 1024"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs", "not valid JSON"),
        ({"structured_outputs": {"json": "[" * 200_0}}, "structured_outputs", "levels deep"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs", "json_object is false"),
        ({"structured_outputs": {"regex": "a" * 4097}}, "structured_outputs", "4097 characters; at most 4096"),
        ({"structured_outputs": {"grammar": "x" * 65537}}, "structured_outputs", "65537 bytes; at most 65536"),
        (
            {"structured_outputs": {"json": {}, "whitespace_pattern": " "}},
            "structured_outputs.whitespace_pattern",
            "engines",
        ),
        (
            {"structured_outputs": {"json_object": True}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "one constraint only",
        ),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tools", "not supported"),
        ({"tool_choice": "required"}, "tool_choice", "not supported"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "not supported"),
        ({"prompt_logprobs": 0}, "prompt_logprobs", "not supported"),
        ({"do_remote_decode": True}, "do_remote_decode", "internal"),
        ({"guided_json": {}}, "guided_json", "use structured_outputs.json"),
        ({"use_beam_search": 0}, "use_beam_search", "not supported"),
        ({"kv_transfer_params": {"do_remote_decode": True}}, "kv_transfer_params", "internal"),
        ({"request_id": "x"}, "request_id", "internal"),
        ({"priority": 1}, "priority", "internal"),
        ({"vllm_xargs": {}}, "vllm_xargs", "internal"),
        ({"prompt_embeds": "AA"}, "prompt_embeds", "internal"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
async def test_a_bad_completion_is_a_400_that_names_the_field(
    http: ClientSession, service: FakeService, change: dict[str, Any], param: str, says: str
) -> None:
    status, body = await post(http, COMPLETION | change)
    error = body["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert says in error["message"]
    assert service.generations == []
    assert (await post(http, COMPLETION))[0] == 200


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"messages": []}, "messages", "0 messages"),
        ({"messages": "Hi"}, "messages", "a string"),
        ({"messages": [1]}, "messages[0]", "an integer"),
        ({"messages": [{"content": "a"}]}, "messages[0].role", "null"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "an integer"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
            "'image_url', which is not supported",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]},
            "messages[0].tool_calls",
            "not supported",
        ),
        ({"messages": [{"role": "user", "contents": "a"}]}, "messages[0].contents", "'content'"),
        ({"messages": [{"role": "user", "content": "x " * 900}]}, "messages", "the model takes 512"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"tool_choice": "required"}, "tool_choice", "not supported"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs=true"),
        ({"logprobs": 2}, "logprobs", "2"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs", "21"),
        ({"echo": True}, "echo", "not for chat"),
        ({"prompt": "a"}, "prompt", "not a known field"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
async def test_a_bad_chat_is_a_400_that_names_the_field(
    http: ClientSession, service: FakeService, change: dict[str, Any], param: str, says: str
) -> None:
    status, body = await post(http, CHAT | change, "/v1/chat/completions")
    error = body["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert says in error["message"]
    assert service.generations == []


async def test_harmless_and_neutral_fields_are_let_through(http: ClientSession) -> None:
    fields = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "temperature": None,
        "suffix": None,
    }
    assert (await post(http, CHAT | fields, "/v1/chat/completions"))[0] == 200
    sent_back = [
        {"role": "user", "content": "a", "name": "me"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": None, "audio": None},
        {"role": "user", "content": "b"},
    ]
    assert (await post(http, CHAT | {"messages": sent_back}, "/v1/chat/completions"))[0] == 200
