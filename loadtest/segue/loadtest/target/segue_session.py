"""A Segue router over gRPC's ``Session``: all requests on one call, whose messages hold the tokens of many."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import count

import grpc
import grpc.aio

from segue.client.connection import Connection
from segue.loadtest.measure.outcome import Failure, Outcome
from segue.loadtest.target.base import Ask, Clock
from segue.loadtest.target.segue_grpc import generate_request, take_response
from segue.loadtest.workload.prompts import PromptMaker
from segue.loadtest.workload.shape import RequestShape
from segue.proto.inference_pb2 import GenerateRequest, SessionRequest, SessionResponse, SessionStart
from segue.proto.inference_pb2_grpc import InferenceStub

_FAILURES = {
    grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]: Failure.REFUSED,
    grpc.StatusCode.DEADLINE_EXCEEDED.value[0]: Failure.TIMEOUT,
    grpc.StatusCode.INVALID_ARGUMENT.value[0]: Failure.CLIENT_ERROR,
    grpc.StatusCode.NOT_FOUND.value[0]: Failure.CLIENT_ERROR,
    grpc.StatusCode.UNAUTHENTICATED.value[0]: Failure.CLIENT_ERROR,
    grpc.StatusCode.PERMISSION_DENIED.value[0]: Failure.CLIENT_ERROR,
}
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
        self._metadata = (*connection.metadata(), *ask.headers)
        self._stub = InferenceStub(self._channel)
        self._ids = count(1)
        self._open: dict[int, _Open] = {}
        self._outgoing = SessionRequest()
        self._something = asyncio.Event()
        self._session: asyncio.Task[None] | None = None

    def prepare(self, shape: RequestShape) -> GenerateRequest:
        return generate_request(shape, self._ask, self._prompts)

    async def send(self, prepared: GenerateRequest, outcome: Outcome, clock: Clock) -> None:
        if self._session is None or self._session.done():
            self._session = asyncio.create_task(self._run(), name="session")
        request_id = next(self._ids)
        one = _Open(outcome, clock, asyncio.get_running_loop().create_future())
        self._open[request_id] = one
        self._outgoing.start.append(SessionStart(id=request_id, request=prepared, timeout_s=self._ask.timeout_s))
        self._something.set()
        try:
            await asyncio.wait_for(one.done, self._ask.timeout_s + _GRACE_S)
        except TimeoutError:
            outcome.fail(Failure.TIMEOUT, f"no whole answer after {self._ask.timeout_s:g} s")
        finally:
            if self._open.pop(request_id, None) is not None:
                self._outgoing.cancel.append(request_id)
                self._something.set()

    async def close(self) -> None:
        if self._session is not None:
            self._session.cancel()
            await asyncio.gather(self._session, return_exceptions=True)
        await self._channel.close(grace=None)

    async def _run(self) -> None:
        """One call, from its first request to its end."""
        call = self._stub.Session(self._requests(), metadata=self._metadata)
        try:
            async for response in call:
                self._take(response)
            reason = "the router ended the session"
        except grpc.aio.AioRpcError as error:
            reason = f"the session broke off: {error.code().name}: {error.details()}"
        finally:
            call.cancel()
        for request_id, one in list(self._open.items()):
            one.outcome.fail(Failure.RESET, reason)
            self._end(request_id)

    async def _requests(self) -> AsyncIterator[SessionRequest]:
        """What has come up since the last message goes out as one."""
        while True:
            await self._something.wait()
            self._something.clear()
            message, self._outgoing = self._outgoing, SessionRequest()
            yield message

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
                failure = _FAILURES.get(error.status, Failure.SERVER_ERROR)
                one.outcome.fail(failure, f"{error.code}: {error.message}")
                self._end(error.id)

    def _end(self, request_id: int) -> None:
        one = self._open.pop(request_id)
        if not one.done.done():
            one.done.set_result(None)
