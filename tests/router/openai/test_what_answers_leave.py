"""What answers that are over leave behind: nothing that waits for the garbage collector, which looks at what is old too
seldom for a router of ten thousand streams."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator

import pytest
from aiohttp import ClientSession

from segue.base.errors import Unavailable
from segue.router.openai.answer import Answer
from segue.router.service import Generation
from tests.router.openai.conftest import FakeService, Script, Step, answer_in_words


def fails_at_once(generation: Generation) -> Iterator[Step]:
    yield Unavailable("no worker")


def fails_midway(generation: Generation) -> Iterator[Step]:
    yield next(answer_in_words(generation))
    yield 0.01
    yield Unavailable("the worker went")


def stands_still(generation: Generation) -> Iterator[Step]:
    yield next(answer_in_words(generation))
    yield 1000.0


async def ask(http: ClientSession, *, stream: bool, whole: bool) -> None:
    body = {"model": "org/tiny", "prompt": [5, 6], "max_tokens": 5, "stream": stream}
    async with http.post("/v1/completions", json=body) as response:
        if whole:
            await response.read()
        else:
            await response.content.readany()


def left() -> list[object]:
    return [one for one in gc.get_objects() if isinstance(one, Answer)]


CASES = [
    (stands_still, True),  # Its client goes.
    *((script, stream) for script in (answer_in_words, fails_at_once, fails_midway) for stream in (True, False)),
]


@pytest.mark.parametrize(("script", "stream"), CASES)
async def test_nothing_of_an_answer_outlives_it(
    http: ClientSession, service: FakeService, script: Script, stream: bool
) -> None:
    service.script = script
    gc.collect()
    before = len(left())  # Other tests'.
    gc.disable()
    try:
        await ask(http, stream=stream, whole=script is not stands_still)
        async with asyncio.timeout(30):
            while len(left()) > before:
                service.handles.clear()  # Its cancelled tasks have frames, too.
                await asyncio.sleep(0.05)
    finally:
        gc.enable()
