"""Calls of ``segue.v1.Inference``, and what came of them."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence
from typing import Any

import grpc.aio
import pytest

from segue.proto.inference_pb2 import (
    GenerateRequest,
    GenerateResponse,
    TokenIds,
)
from segue.proto.sampling_pb2 import SamplingParams
from tests.router.core.scripted import ScriptedWorker

PROMPT = (5, 6, 7, 8)
Pair = tuple[ScriptedWorker, ScriptedWorker]


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
