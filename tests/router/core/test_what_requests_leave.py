"""What requests that are over leave behind: nothing that waits for the garbage collector, which looks at what is old
too seldom for a router of ten thousand streams."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc.aio
import pytest

from segue.base.errors import DeadlineExceeded
from segue.client import SegueClient
from segue.proto.inference_pb2 import GenerateRequest
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.router.lifecycle.choice_run import ChoiceRun
from segue.router.lifecycle.request import Request
from segue.router.limits import Limits
from segue.router.public_grpc.merging_sink import MergingSink
from segue.router.text.tokenizer import TextCodec
from tests.router.core.calls import Pair, ask, refused
from tests.router.core.scripted import Router, running_router, until

PROMPT = list(range(10, 60))
Stream = Callable[..., AsyncIterator[Any]]


@contextmanager
def no_collector() -> Iterator[Callable[[], list[object]]]:
    """What is left of requests of the block, as a call."""
    gc.collect()
    held = living()  # Whatever other tests of this process have left.
    before = {id(one) for one in held}
    gc.disable()
    try:
        yield lambda: [one for one in living() if id(one) not in before]
    finally:
        gc.enable()
        del held


def living() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, Request | ChoiceRun | MergingSink)]


async def take(stream: Stream, *, whole: bool) -> None:
    answer = stream(PROMPT, max_tokens=20)
    async for _ in answer:
        if not whole:
            break
    await answer.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("whole", [True, False], ids=["answered", "cancelled"])
async def test_nothing_of_a_request_outlives_it(router: Router, pair: Pair, whole: bool) -> None:
    async with SegueClient(router.address) as client, client.session() as session:
        with no_collector() as left:
            for stream in (client.stream, session.stream):
                await take(stream, whole=whole)
            await until(lambda: not left())


async def test_nothing_of_a_request_that_fails_outlives_it(router: Router, pair: Pair) -> None:
    async with SegueClient(router.address) as client, client.session() as session:
        with no_collector() as left:
            with pytest.raises(DeadlineExceeded, match="s passed "):
                async for _ in session.stream(PROMPT, max_tokens=4000, timeout_s=0.05):
                    pass
            await until(lambda: not left())


@pytest.mark.parametrize("method", ["Generate", "GenerateUnary"])
async def test_nothing_of_a_call_that_ends_with_an_error_outlives_it(codec: TextCodec, method: str) -> None:
    limits = Limits(default_timeout_s=0.2)
    async with running_router(codec, limits=limits) as router, grpc.aio.insecure_channel(router.address) as channel:
        _, decode = await router.attach_pair()
        decode.go.clear()
        call = getattr(InferenceStub(channel), method)
        with no_collector() as left:
            assert (await refused(call(ask())))[2] == "deadline_exceeded"
            assert (await refused(call(GenerateRequest())))[2] == "invalid_request"
            await until(lambda: not left())
