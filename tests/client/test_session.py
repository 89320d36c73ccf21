"""The typed client's sessions against a real router with scripted workers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from segue.base.errors import DeadlineExceeded, InvalidRequest, Unavailable
from segue.client import SegueClient
from segue.client.session import Session
from segue.proto.sampling_pb2 import SamplingParams
from tests.router.core.scripted import Router, ScriptedWorker, until
from tests.router.core.scripted_answers import counting

PROMPT = [5, 6, 7, 8]
Pair = tuple[ScriptedWorker, ScriptedWorker]


@pytest_asyncio.fixture
async def pair(router: Router) -> Pair:
    return await router.attach_pair()


@pytest_asyncio.fixture
async def session(router: Router) -> AsyncIterator[Session]:
    async with SegueClient(router.address) as client, client.session() as opened:
        yield opened


async def read(session: Session, tokens: int) -> tuple[list[int], str | None]:
    ids, finish = list[int](), None
    async for delta in session.stream(PROMPT, max_tokens=tokens):
        ids += delta.token_ids
        finish = delta.finish_reason
    return ids, finish


async def test_answers_of_one_session_are_those_of_calls(session: Session, pair: Pair, router: Router) -> None:
    lengths = [1, 2, 9, 30]
    answers = await asyncio.gather(*(read(session, length) for length in lengths))
    for length, (ids, finish) in zip(lengths, answers, strict=True):
        assert ids == counting(PROMPT, SamplingParams(max_tokens=length))[:length]
        assert finish == "length"
    router.assert_idle()


async def test_an_error_is_its_requests_alone(session: Session, pair: Pair) -> None:
    good = asyncio.create_task(read(session, 5))
    with pytest.raises(InvalidRequest, match="temperature"):
        await anext(session.stream(PROMPT, temperature=-1.0))
    assert (await good)[1] == "length"


async def test_leaving_an_answer_frees_its_workers(session: Session, pair: Pair, router: Router) -> None:
    pair[1].go.clear()
    stream = session.stream(PROMPT, max_tokens=50)
    await anext(stream)
    await stream.aclose()  # type: ignore[attr-defined]
    await until(lambda: pair[1].aborted_at_s)
    router.assert_idle()


async def test_each_request_has_its_deadline(session: Session, pair: Pair) -> None:
    pair[1].go.clear()
    with pytest.raises(DeadlineExceeded):
        async for _ in session.stream(PROMPT, max_tokens=5, timeout_s=0.2):
            pass


async def test_a_session_that_is_closed_ends_what_is_read(router: Router, pair: Pair) -> None:
    pair[1].go.clear()
    async with SegueClient(router.address) as client:
        async with client.session() as session:
            reading = asyncio.create_task(read(session, 50))
            await until(lambda: pair[1].submits)
        with pytest.raises(Unavailable, match="closed"):
            await reading
        with pytest.raises(Unavailable, match="closed"):
            await read(session, 1)
    await until(lambda: pair[1].aborted_at_s)
