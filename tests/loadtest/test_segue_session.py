"""The load test's ``Session`` against a server whose calls break."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio
import pytest

from segue.base.errors import (
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    SegueError,
    Unavailable,
)
from segue.loadtest.measure.outcome import Failure, Outcome
from segue.loadtest.target.base import Ask
from segue.loadtest.target.segue_session import SessionTarget
from segue.proto.inference_pb2 import (
    GenerateRequest,
    GenerateResponse,
    SessionError,
    SessionPart,
    SessionRequest,
    SessionResponse,
    TokenIds,
    Usage,
)
from segue.proto.inference_pb2_grpc import InferenceServicer, add_InferenceServicer_to_server

ASK = Ask("m", timeout_s=20.0)
Context = grpc.aio.ServicerContext[SessionRequest, SessionResponse]


class FirstCallBreaks(InferenceServicer):
    """Answers every request of a later call; the first breaks when ``breaks`` says so, and reads nothing."""

    def __init__(self, breaks: Callable[[], Awaitable[Any]]) -> None:
        self.calls = 0
        self.started: list[int] = []
        self.cancelled: list[int] = []
        self._breaks = breaks

    async def Session(
        self, request_iterator: AsyncIterator[SessionRequest], context: Context
    ) -> AsyncIterator[SessionResponse]:
        self.calls += 1
        if self.calls == 1:
            await self._breaks()
            await context.abort(grpc.StatusCode.UNAVAILABLE, "the router restarts")
        async for message in request_iterator:
            self.started += [start.id for start in message.start]
            self.cancelled += message.cancel
            answer = GenerateResponse(usage=Usage(output_tokens=1))
            yield SessionResponse(parts=[SessionPart(id=start.id, response=answer) for start in message.start])


@asynccontextmanager
async def a_target(servicer: InferenceServicer, ask: Ask = ASK) -> AsyncIterator[SessionTarget]:
    server = grpc.aio.server()
    add_InferenceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    target = SessionTarget(f"127.0.0.1:{port}", ask, None)  # type: ignore[arg-type]
    try:
        yield target
    finally:
        await target.close()
        await server.stop(None)


async def send(target: SessionTarget, prompt_tokens: int = 1) -> Outcome:
    outcome = Outcome(0, "", 0.0, 0.0, prompt_tokens, 1)
    request = GenerateRequest(token_ids=TokenIds(ids=[7] * prompt_tokens))
    await target.send(request, outcome, time.monotonic)
    return outcome


async def test_the_first_request_after_a_call_that_broke_is_answered() -> None:
    servicer = FirstCallBreaks(lambda: asyncio.sleep(0))  # type: ignore[abstract]
    async with a_target(servicer) as target:
        broken = await send(target)
        answered = await send(target)
    assert (broken.failure, broken.detail) == (
        Failure.RESET,
        "the session broke off: UNAVAILABLE: the router restarts",
    )
    assert (answered.failure, answered.output_tokens) == (None, 1)
    assert (servicer.calls, servicer.started, servicer.cancelled) == (2, [2], [])


class Refuses(InferenceServicer):
    """Ends every request of a session with one error, and remembers what the call brought."""

    def __init__(self, error: SegueError) -> None:
        self.metadata: dict[str, str] = {}
        self._error = error

    async def Session(
        self, request_iterator: AsyncIterator[SessionRequest], context: Context
    ) -> AsyncIterator[SessionResponse]:
        self.metadata = {str(name): str(value) for name, value in context.invocation_metadata() or ()}
        error = self._error
        async for message in request_iterator:
            status = error.grpc_status.value[0]
            told = [
                SessionError(id=start.id, status=status, code=error.code, message=error.message)
                for start in message.start
            ]
            yield SessionResponse(errors=told)


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (Overloaded("busy"), Failure.REFUSED),
        (DeadlineExceeded("late"), Failure.TIMEOUT),
        (InvalidRequest("no"), Failure.CLIENT_ERROR),
        (PayloadTooLarge("too much"), Failure.CLIENT_ERROR),
        (Conflict("not now"), Failure.CLIENT_ERROR),
        (Unavailable("nobody"), Failure.SERVER_ERROR),
        (InternalError("oh"), Failure.SERVER_ERROR),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_an_error_is_of_the_kind_that_it_is_over_http(error: SegueError, failure: Failure) -> None:
    async with a_target(Refuses(error)) as target:  # type: ignore[abstract]
        outcome = await send(target)
    assert (outcome.failure, outcome.detail) == (failure, f"{error.code}: {error.message}")


async def test_headers_go_out_as_grpc_writes_them() -> None:
    servicer = Refuses(InternalError("oh"))  # type: ignore[abstract]
    ask = replace(ASK, headers=(("X-Segue-Tenant", "alice"),))
    async with a_target(servicer, ask) as target:
        await send(target)
    assert servicer.metadata["x-segue-tenant"] == "alice"


class OneThatBreaks:
    """A call that takes no message and breaks when it is told to."""

    def __init__(self) -> None:
        self.breaks = asyncio.Event()

    async def write(self, message: SessionRequest) -> None:
        await asyncio.Event().wait()

    async def read(self) -> SessionResponse:
        await self.breaks.wait()
        raise grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone", None)

    def cancel(self) -> bool:
        return True


async def test_what_had_not_gone_out_when_a_call_broke_is_no_part_of_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    servicer = FirstCallBreaks(lambda: asyncio.sleep(0))  # type: ignore[abstract]
    servicer.calls = 1  # The broken one is scripted: what it takes of a message is gRPC's secret else.
    async with a_target(servicer) as target:
        call = OneThatBreaks()
        with monkeypatch.context() as patch:
            patch.setattr(target._stub, "Session", lambda **_: call)
            sending = [asyncio.create_task(send(target)) for _ in range(2)]
            await asyncio.sleep(0)
        call.breaks.set()
        broken = await asyncio.gather(*sending)
        answered = await send(target)
    assert [one.failure for one in broken] == [Failure.RESET] * 2
    assert answered.failure is None
    assert (servicer.started, servicer.cancelled) == ([3], [])
