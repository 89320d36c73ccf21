"""What waits for a session's client: nothing of cancelled requests, and the ends of as many as it has under way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from segue.base.errors import InvalidRequest, Unavailable
from segue.proto.inference_pb2 import (
    ChoiceDelta,
    GenerateRequest,
    GenerateResponse,
    SessionRequest,
    SessionResponse,
    SessionStart,
    Usage,
)
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.limits import Limits
from segue.router.public_grpc.session import MAX_REQUESTS, Session, SessionCore
from segue.router.public_grpc.session_outbox import SessionOutbox
from segue.router.service import Generation, ResponseSink
from tests.router.core.scripted import until


def part(text: str, *token_ids: int, over: bool = False) -> GenerateResponse:
    choices = [ChoiceDelta(text=text, token_ids=token_ids)]
    return GenerateResponse(request_id=text, choices=choices, usage=Usage(output_tokens=1) if over else None)


def rows(message: SessionResponse | None) -> list[tuple[int, int, str]]:
    assert message is not None
    return list(zip(message.ids, message.token_ids, message.texts, strict=True))


async def test_what_waits_of_an_id_is_left_out_and_what_comes_later_is_not() -> None:
    outbox = SessionOutbox(1 << 20)
    outbox.put_token(5, 0, "old", 1)
    outbox.put_token(6, 0, "other", 2)
    outbox.put_part(5, part("old", 3))
    outbox.put_error(5, InvalidRequest("old"))
    outbox.drop(5)
    outbox.put_token(5, 0, "new", 4)
    outbox.put_part(5, part("last", 5))

    message = await outbox.take()

    assert rows(message) == [(6, 2, "other"), (5, 4, "new")]
    assert message is not None
    assert [(one.id, one.response.request_id) for one in message.parts] == [(5, "last")]
    assert not message.errors
    outbox.put_token(5, 0, "next", 6)
    assert rows(await outbox.take()) == [(5, 6, "next")]


async def test_where_all_that_waits_is_left_out_there_is_no_message() -> None:
    outbox = SessionOutbox(1 << 20)
    outbox.put_token(5, 0, "old", 1)
    outbox.drop(5)
    assert await outbox.take() is None
    outbox.put_part(5, part("old", 1))
    outbox.drop(5)
    assert await outbox.take() is None


async def test_a_client_that_cancels_and_never_reads_is_ended_too() -> None:
    outbox = SessionOutbox(10_000)
    outbox.put_token(5, 0, "old", 1)
    for id_ in range(1000):
        outbox.drop(id_)
    with pytest.raises(Exception, match="reads too slowly"):
        outbox.overrun.result()


class Wire:
    """A call's context, whose client says what the test says and takes a message when the test does; also the core."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[SessionRequest | None] = asyncio.Queue()
        self.written: list[SessionResponse] = []
        self.reads = asyncio.Event()
        self.sinks: list[ResponseSink] = []

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def time_remaining(self) -> None:
        return None

    async def read(self) -> SessionRequest | None:
        return await self.said.get()

    async def write(self, message: SessionResponse) -> None:
        self.written.append(message)
        await self.reads.wait()

    def start(self, generation: Generation, sink: ResponseSink) -> Any:
        self.sinks.append(sink)
        return SimpleNamespace(cancel=lambda: None)

    async def say(self, *starts: int, cancel: tuple[int, ...] = ()) -> None:
        begun = len(self.sinks) + len(starts)
        await self.said.put(SessionRequest(start=[SessionStart(id=id_) for id_ in starts], cancel=cancel))
        await until(lambda: self.said.empty() and len(self.sinks) == begun)


async def translated(request: GenerateRequest, left_s: Any) -> Generation:
    return Generation("m", (1,), None, SamplingParams(), 1, echo=False, label=None, timeout_s=1.0)


@asynccontextmanager
async def a_busy_session() -> AsyncIterator[Wire]:
    """One whose message to the client is still on its way: what comes now waits."""
    wire = Wire()
    core = SessionCore(wire, translated, Limits(), lambda context: lambda: None)  # type: ignore[arg-type]
    running = asyncio.create_task(Session(core, wire).run())  # type: ignore[arg-type]
    await wire.say(1)
    wire.sinks[0].on_token(0, "first", 1)
    await until(lambda: wire.written)
    yield wire
    wire.sinks[0].on_delta(part("end", 9, over=True))
    await wire.said.put(None)
    await running


@pytest.mark.parametrize("over", [False, True], ids=["under way", "over already"])
async def test_an_ids_next_request_is_given_nothing_of_the_cancelled_one(over: bool) -> None:
    async with a_busy_session() as wire:
        await wire.say(5)
        wire.sinks[1].on_token(0, "old", 1)
        wire.sinks[1].on_delta(part("old", 2, over=over))
        await wire.say(cancel=(5,))
        await wire.say(5)
        wire.sinks[2].on_delta(part("new", 3))
        wire.sinks[2].on_delta(part("", over=True))
        wire.reads.set()
        await until(lambda: len(wire.written) == 2)
        message = wire.written[1]
        assert not message.ids
        (only,) = message.parts
        assert (only.id, only.response.request_id) == (5, "new")
        assert [(choice.text, list(choice.token_ids)) for choice in only.response.choices] == [("new", [3])]


async def test_a_cancelled_requests_waiting_tokens_are_not_sent() -> None:
    async with a_busy_session() as wire:
        await wire.say(5)
        wire.sinks[1].on_token(0, "old", 1)
        wire.sinks[0].on_token(0, "mine", 2)
        await wire.say(cancel=(5,))
        wire.reads.set()
        await until(lambda: len(wire.written) == 2)
        assert rows(wire.written[1]) == [(1, 2, "mine")]


async def test_all_that_a_session_may_have_under_way_can_end_at_once() -> None:
    """As they do when the last decode worker is gone: no client reads faster than that."""
    lost = Unavailable("decode worker decode-17 was lost while it worked on the request; " + "after 10.0 s " * 20)
    async with a_busy_session() as wire:
        await wire.say(*range(2, MAX_REQUESTS + 1))
        for sink in wire.sinks[1:]:
            sink.on_error(lost)
        wire.reads.set()
        await until(lambda: len(wire.written) == 2)
        assert len(wire.written[1].errors) == MAX_REQUESTS - 1
        assert wire.written[1].ByteSize() < 4 << 20  # What gRPC's clients take unless they are told otherwise.
