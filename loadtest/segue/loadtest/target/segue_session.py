"""A Segue router over gRPC's ``Session``: all requests on one call, whose messages hold the tokens of many."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import grpc
import grpc.aio

from segue.client.connection import Connection
from segue.client.errors import from_code
from segue.loadtest.measure.outcome import Failure, Outcome
from segue.loadtest.target.base import Ask, Clock
from segue.loadtest.target.segue_grpc import call_metadata, failure_of, generate_request, take_response
from segue.loadtest.workload.prompts import PromptMaker
from segue.loadtest.workload.shape import RequestShape
from segue.proto.inference_pb2 import GenerateRequest, SessionRequest, SessionResponse, SessionStart
from segue.proto.inference_pb2_grpc import InferenceStub

# For the router's own word on a deadline to arrive before ours.
_GRACE_S = 1.0


@dataclass(frozen=True, slots=True)
class _Open:
    outcome: Outcome
    clock: Clock
    done: asyncio.Future[None]


class SessionTarget:
    """Prompts are token ids. The call is opened with the first request, and again after one that broke."""

    def __init__(self, address: str, ask: Ask, prompts: PromptMaker) -> None:
        """Raises SettingsError if the API key would leave this machine in plain text."""
        connection = Connection(address, ask.api_key or None)
        self._ask = ask
        self._prompts = prompts
        self._channel = connection.open()
        self._metadata = call_metadata(connection, ask)
        self._stub = InferenceStub(self._channel)
        self._ids = count(1)
        self._call: _Call | None = None

    def prepare(self, shape: RequestShape) -> GenerateRequest:
        return generate_request(shape, self._ask, self._prompts)

    async def send(self, prepared: GenerateRequest, outcome: Outcome, clock: Clock) -> None:
        call = self._call
        if call is None or call.over:
            # Writing by hand needs no iterator.
            call = self._call = _Call(self._stub.Session(metadata=self._metadata))  # type: ignore[call-arg]
        request_id = next(self._ids)
        one = _Open(outcome, clock, asyncio.get_running_loop().create_future())
        call.start(SessionStart(id=request_id, request=prepared, timeout_s=self._ask.timeout_s), one)
        try:
            await asyncio.wait_for(one.done, self._ask.timeout_s + _GRACE_S)
        except TimeoutError:
            outcome.fail(Failure.TIMEOUT, f"no whole answer after {self._ask.timeout_s:g} s")
        finally:
            call.leave(request_id)

    async def close(self) -> None:
        if self._call is not None:
            await self._call.close()
        await self._channel.close(grace=None)


class _Call:
    """One call, its requests, and what of them has not gone out: a later call has nothing of it."""

    def __init__(self, call: grpc.aio.StreamStreamCall[SessionRequest, SessionResponse]) -> None:
        self._call = call
        self._open: dict[int, _Open] = {}
        self._outgoing = SessionRequest()
        self._filled = asyncio.Event()
        self._running = asyncio.create_task(self._run(), name="session")

    @property
    def over(self) -> bool:
        return self._running.done()

    def start(self, start: SessionStart, one: _Open) -> None:
        self._open[start.id] = one
        self._outgoing.start.append(start)
        self._filled.set()

    def leave(self, request_id: int) -> None:
        """Cancel a request; nothing if it is over."""
        if self._open.pop(request_id, None) is not None:
            self._outgoing.cancel.append(request_id)
            self._filled.set()

    async def close(self) -> None:
        self._running.cancel()
        await asyncio.gather(self._running, return_exceptions=True)

    async def _run(self) -> None:
        """From the call's first request to its end."""
        writing = asyncio.create_task(self._write(), name="session requests")
        try:
            while isinstance(response := await self._call.read(), SessionResponse):
                self._take(response)
            reason = "the router ended the session"
        except grpc.aio.AioRpcError as error:
            reason = f"the session broke off: {error.code().name}: {error.details()}"
        finally:
            writing.cancel()
            self._call.cancel()
            await asyncio.gather(writing, return_exceptions=True)
        for request_id, one in list(self._open.items()):
            one.outcome.fail(Failure.RESET, reason)
            self._end(request_id)

    async def _write(self) -> None:
        """What has come up since the last message goes out as one."""
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # Reading tells why.
            while True:
                await self._filled.wait()
                self._filled.clear()
                message, self._outgoing = self._outgoing, SessionRequest()
                await self._call.write(message)

    def _take(self, response: SessionResponse) -> None:
        for request_id in dict.fromkeys(response.ids):
            if (one := self._open.get(request_id)) is not None:
                one.outcome.on_chunk(one.clock())
        for part in response.parts:
            if (one := self._open.get(part.id)) is not None:
                take_response(part.response, one.outcome, one.clock())
                if part.response.HasField("usage"):
                    self._end(part.id)
        for error in response.errors:
            if (one := self._open.get(error.id)) is not None:
                told = from_code(error.code, error.status, error.message, None)
                one.outcome.fail(failure_of(told, by_the_router=True), f"{told.code}: {told.message}")
                self._end(error.id)

    def _end(self, request_id: int) -> None:
        one = self._open.pop(request_id)
        if not one.done.done():
            one.done.set_result(None)
