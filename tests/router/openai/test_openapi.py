"""The description that the router serves says what the router checks."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientSession
from jsonschema import Draft202012Validator

from segue.router.limits import Limits
from segue.router.openai.fields import INTERNAL
from segue.router.openai.openapi import describe
from segue.router.openai.schema import ChatCompletionRequest, CompletionRequest

SCHEMAS = describe(Limits())["components"]["schemas"]


def accepts(schema: str, body: Any) -> bool:
    return bool(Draft202012Validator(SCHEMAS[schema]).is_valid(body))


async def test_it_is_served(http: ClientSession, limits: Limits) -> None:
    async with http.get("/openapi.json") as answer:
        assert answer.status == 200
        assert await answer.json() == describe(limits)


@pytest.mark.parametrize("kind", [CompletionRequest, ChatCompletionRequest])
def test_every_field_that_is_read_is_described(kind: type[CompletionRequest | ChatCompletionRequest]) -> None:
    described = SCHEMAS[kind.__name__]
    Draft202012Validator.check_schema(described)
    assert set(kind.model_fields) <= set(described["properties"])
    assert not INTERNAL & set(described["properties"])


def test_bounds_are_the_limits() -> None:
    assert accepts("CompletionRequest", {"prompt": "a", "n": 8, "temperature": None, "stop": ["x"]})
    assert not accepts("CompletionRequest", {"prompt": "a", "n": 9})
    assert not accepts("CompletionRequest", {"prompt": "a", "stop": [""]})
    assert not accepts("CompletionRequest", {"prompt": "a", "kv_transfer_params": {}})
    assert not accepts("CompletionRequest", {})
    assert not accepts("CompletionRequest", {"prompt": "a", "stream_options": {}})
    assert accepts("CompletionRequest", {"prompt": "a", "stream_options": {}, "stream": True})
    assert accepts("ChatCompletionRequest", {"messages": [{"role": "user", "content": "a"}]})
    assert not accepts("ChatCompletionRequest", {"messages": []})
    assert not accepts("ChatCompletionRequest", {"messages": [{"role": "user", "tool_calls": [1]}]})
