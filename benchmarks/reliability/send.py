"""One request over each of the four ways in, as its client sees it end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import grpc.aio
from reliability.asks import Answer, Ask, Choice

from segue.proto.inference_pb2 import ChoiceDelta, GenerateRequest
from segue.proto.sampling_pb2 import FinishReason, SamplingParams

if TYPE_CHECKING:
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub


class ClientGone(Exception):
    """The client has seen enough and goes."""


@dataclass(slots=True)
class Ending:
    """How a request ended. ``kind``: ok, cancelled, refused, deadline, unavailable, connection, other or hung."""

    kind: str = "hung"
    detail: str = ""
    answer: Answer = field(default_factory=dict)
    path: str = ""
    continuations: int = 0
    sent_s: float = 0.0
    took_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Doors:
    """The router's two APIs."""

    session: aiohttp.ClientSession
    stub: InferenceAsyncStub
    model: str


@dataclass(frozen=True, slots=True)
class Patience:
    """A request's deadline, and after how many parts of the answer its client goes (0: never)."""

    timeout_s: float
    parts: int = 0


Door = Callable[[Doors, Ask, Patience, Ending], Awaitable[None]]

_GRPC_KINDS = {
    grpc.StatusCode.DEADLINE_EXCEEDED: "deadline",
    grpc.StatusCode.RESOURCE_EXHAUSTED: "refused",
    grpc.StatusCode.UNAVAILABLE: "unavailable",
    grpc.StatusCode.CANCELLED: "cancelled",
}
_HTTP_KINDS = {504: "deadline", 429: "refused", 503: "unavailable"}
_OPENAI_KINDS = {"timeout_error": "deadline", "rate_limit_error": "refused", "service_unavailable_error": "unavailable"}


async def send(door: Door, doors: Doors, ask: Ask, patience: Patience) -> Ending:
    """Never raises. ``hung`` if it has not ended a second after its deadline."""
    ending = Ending(sent_s=time.monotonic())
    try:
        async with asyncio.timeout(patience.timeout_s + 1.0):
            await door(doors, ask, patience, ending)
            ending.kind = "ok"
    except TimeoutError:
        ending.kind = "hung"
    except ClientGone:
        ending.kind = "cancelled"
    except grpc.aio.AioRpcError as error:
        ending.kind, ending.detail = _GRPC_KINDS.get(error.code(), "other"), f"{error.code().name}: {error.details()}"
        # Without a word of the router's own, the channel is speaking: the connection was lost.
        if ending.kind == "unavailable" and not _by_the_router(error):
            ending.kind = "connection"
    except _ApiError as error:
        ending.kind, ending.detail = error.kind, str(error)
    except (aiohttp.ClientError, ConnectionError) as error:
        ending.kind, ending.detail = "connection", f"{type(error).__name__}: {error}"
    ending.took_s = time.monotonic() - ending.sent_s
    return ending


def _by_the_router(error: grpc.aio.AioRpcError) -> bool:
    metadata: dict[str, str | bytes] = dict(error.trailing_metadata() or ())  # type: ignore[arg-type]
    return "segue-error-code" in metadata


class _ApiError(Exception):
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


async def grpc_stream(doors: Doors, ask: Ask, patience: Patience, ending: Ending) -> None:
    call = doors.stub.Generate(_request(doors, ask), timeout=patience.timeout_s)
    parts = 0
    try:
        async for response in call:
            for delta in response.choices:
                _add(ending.answer, delta)
            if response.HasField("usage"):
                _note(ending, response.timings)
            parts += 1
            if parts == patience.parts:
                raise ClientGone
    finally:
        call.cancel()


async def grpc_unary(doors: Doors, ask: Ask, patience: Patience, ending: Ending) -> None:
    call = doors.stub.GenerateUnary(_request(doors, ask), timeout=patience.timeout_s)
    if patience.parts:
        await asyncio.sleep(0.03 * patience.parts)
        if not call.done():
            call.cancel()
            raise ClientGone
    response = await call
    for delta in response.choices:
        _add(ending.answer, delta)
    _note(ending, response.timings)


async def http_unary(doors: Doors, ask: Ask, patience: Patience, ending: Ending) -> None:
    try:
        async with asyncio.timeout(0.03 * patience.parts if patience.parts else None):
            async with _post(doors, ask, patience, stream=False) as response:
                await _check(response)
                body = await response.json()
    except TimeoutError:
        raise ClientGone from None
    for choice in body["choices"]:
        ending.answer[choice["index"]] = Choice(choice["text"], finish=choice["finish_reason"])
    _note_json(ending, body["segue"]["timings"])


async def http_stream(doors: Doors, ask: Ask, patience: Patience, ending: Ending) -> None:
    parts, done = 0, False
    async with _post(doors, ask, patience, stream=True) as response:
        await _check(response)
        async for line in response.content:
            if not line.startswith(b"data:"):
                continue
            if line.startswith(b"data: [DONE]"):
                done = True
                continue
            event = json.loads(line[5:])
            if "error" in event:
                error = event["error"]
                raise _ApiError(_OPENAI_KINDS.get(error["type"], "other"), error["message"])
            for one in event["choices"]:
                choice = ending.answer.setdefault(one["index"], Choice())
                choice.text += one["text"]
                choice.finish = one["finish_reason"] or choice.finish
            if "segue" in event:
                _note_json(ending, event["segue"]["timings"])
            parts += 1
            if parts == patience.parts:
                raise ClientGone
    if not done:
        raise aiohttp.ClientPayloadError("the stream ended without [DONE]")


DOORS: tuple[Door, ...] = (grpc_stream, grpc_unary, http_stream, http_unary)


def _post(doors: Doors, ask: Ask, patience: Patience, *, stream: bool) -> Any:
    body = {"model": doors.model, "prompt": ask.prompt, "n": ask.n, "stream": stream, **ask.sampling}
    if stream:
        body["stream_options"] = {"include_usage": True}
    headers = {"X-Request-Timeout-S": f"{patience.timeout_s:g}"}
    return doors.session.post("/v1/completions", json=body, headers=headers)


async def _check(response: aiohttp.ClientResponse) -> None:
    if response.status != 200:
        raise _ApiError(
            _HTTP_KINDS.get(response.status, "other"), f"HTTP {response.status}: {(await response.text())[:300]}"
        )


def _request(doors: Doors, ask: Ask) -> GenerateRequest:
    return GenerateRequest(model=doors.model, text=ask.prompt, n=ask.n, sampling=SamplingParams(**ask.sampling))


def _add(answer: Answer, delta: ChoiceDelta) -> None:
    choice = answer.setdefault(delta.index, Choice())
    choice.text += delta.text
    choice.tokens += delta.token_ids
    choice.logprobs += [one.sampled.logprob for one in delta.logprobs]
    if delta.finish_reason:
        choice.finish = FinishReason.Name(delta.finish_reason).removeprefix("FINISH_REASON_").lower()


def _note(ending: Ending, timings: Any) -> None:
    ending.path = str(timings.path)
    ending.continuations = len(timings.continuations)


def _note_json(ending: Ending, timings: dict[str, Any]) -> None:
    ending.path = str(timings["path"])
    ending.continuations = len(timings["continuations"])
