"""What requests that are over leave behind: nothing that waits for the garbage collector, which looks at what is old
too seldom for a router of ten thousand streams."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from segue.base.errors import DeadlineExceeded
from segue.client import SegueClient
from segue.router.lifecycle.choice_run import ChoiceRun
from segue.router.lifecycle.request import Request
from tests.router.core.calls import Pair
from tests.router.core.scripted import Router, until

PROMPT = list(range(10, 60))
Stream = Callable[..., AsyncIterator[Any]]


@contextmanager
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def left() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, Request | ChoiceRun)]


async def ask(stream: Stream, *, whole: bool) -> None:
    answer = stream(PROMPT, max_tokens=20)
    async for _ in answer:
        if not whole:
            break
    await answer.aclose()  # type: ignore[attr-defined]


@pytest.mark.parametrize("whole", [True, False], ids=["answered", "cancelled"])
async def test_nothing_of_a_request_outlives_it(router: Router, pair: Pair, whole: bool) -> None:
    async with SegueClient(router.address) as client, client.session() as session:
        with no_collector():
            for stream in (client.stream, session.stream):
                await ask(stream, whole=whole)
            await until(lambda: not left())


async def test_nothing_of_a_request_that_fails_outlives_it(router: Router, pair: Pair) -> None:
    async with SegueClient(router.address) as client, client.session() as session:
        with no_collector():
            with pytest.raises(DeadlineExceeded, match="passed during"):
                async for _ in session.stream(PROMPT, max_tokens=4000, timeout_s=0.05):
                    pass
            await until(lambda: not left())
