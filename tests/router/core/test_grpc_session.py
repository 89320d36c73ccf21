"""``Inference.Session`` over a real wire: many requests on one call."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
import pytest

from segue.proto.inference_pb2 import (
    GenerateRequest,
    SessionError,
    SessionRequest,
    SessionResponse,
    SessionStart,
    TokenIds,
)
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.limits import Limits
from segue.router.text.tokenizer import TextCodec
from tests.router.core.calls import PROMPT, Pair
from tests.router.core.scripted import Router, running_router, until
from tests.router.core.scripted_answers import counting

if TYPE_CHECKING:  # A name of the stubs for the type checker only.
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub


def start(id_: int, max_tokens: int = 5, *, timeout_s: float = 0.0, n: int = 1, **sampling: Any) -> SessionStart:
    params = SamplingParams(max_tokens=max_tokens, **sampling)
    request = GenerateRequest(token_ids=TokenIds(ids=PROMPT), sampling=params, n=n, request_label=f"label-{id_}")
    return SessionStart(id=id_, request=request, timeout_s=timeout_s)


class Reader:
    """One session's client: what each request has been given so far."""

    def __init__(self, stub: InferenceAsyncStub, **options: Any) -> None:
        self.call = stub.Session(**options)
        self.tokens: dict[tuple[int, int], list[int]] = {}
        self.texts: dict[tuple[int, int], str] = {}
        self.finished: dict[int, Any] = {}
        self.errors: dict[int, SessionError] = {}
        self.messages = 0

    async def send(self, *starts: SessionStart, cancel: tuple[int, ...] = ()) -> None:
        await self.call.write(SessionRequest(start=starts, cancel=cancel))

    async def read_until(self, *ids: int) -> None:
        while not all(id_ in self.finished or id_ in self.errors for id_ in ids):
            message = await self.call.read()
            assert isinstance(message, SessionResponse), await self.call.details()
            self.take(message)

    def take(self, message: SessionResponse) -> None:
        self.messages += 1
        for id_, token, text in zip(message.ids, message.token_ids, message.texts, strict=True):
            self.add(id_, 0, [token], text)
        for part in message.parts:
            for choice in part.response.choices:
                self.add(part.id, choice.index, choice.token_ids, choice.text)
            if part.response.HasField("usage"):
                self.finished[part.id] = part.response
        for error in message.errors:
            self.errors[error.id] = error

    def add(self, id_: int, index: int, token_ids: Any, text: str) -> None:
        self.tokens.setdefault((id_, index), []).extend(token_ids)
        self.texts[id_, index] = self.texts.get((id_, index), "") + text


async def test_each_request_gets_the_answer_that_generate_gives(
    stub: InferenceAsyncStub, pair: Pair, router: Router
) -> None:
    session = Reader(stub)
    await session.send(start(1, 9), start(2, 4, n=2), start(3, 1))
    await session.read_until(1, 2, 3)
    for id_, tokens, n in ((1, 9, 1), (2, 4, 2), (3, 1, 1)):
        whole = await stub.GenerateUnary(start(id_, tokens, n=n).request)
        for choice in whole.choices:
            assert session.tokens[id_, choice.index] == list(choice.token_ids)
            assert session.texts[id_, choice.index] == choice.text
        last = session.finished[id_]
        assert last.usage == whole.usage
        assert last.request_label == f"label-{id_}"
    await session.call.done_writing()
    assert await session.call.code() == grpc.StatusCode.OK
    router.assert_idle()


async def test_a_turns_tokens_of_all_requests_are_one_message(stub: InferenceAsyncStub, pair: Pair) -> None:
    pair[1].go.clear()
    session = Reader(stub)
    await session.send(*(start(id_, 50) for id_ in range(1, 17)))
    await until(lambda: len(pair[1].submits) == 16)
    pair[1].go.set()
    await session.read_until(*range(1, 17))
    assert all(len(session.tokens[id_, 0]) == 50 for id_ in range(1, 17))
    assert session.messages < 16 * 50 / 4


async def test_a_request_that_fails_leaves_the_others_alone(stub: InferenceAsyncStub, pair: Pair) -> None:
    session = Reader(stub)
    await session.send(start(1, 3, temperature=-1.0), start(2, 3), start(2, 3))
    await session.read_until(1, 2)
    assert session.errors[1].status == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert "temperature" in session.errors[1].message
    assert "in use by another request" in session.errors[2].message
    while 2 not in session.finished:
        session.take(await session.call.read())  # type: ignore[arg-type]
    assert len(session.tokens[2, 0]) == 3


async def test_a_cancelled_request_frees_its_workers_and_says_nothing_more(
    stub: InferenceAsyncStub, pair: Pair, router: Router
) -> None:
    pair[1].go.clear()
    session = Reader(stub)
    await session.send(start(1, 50), start(2, 5))
    await until(lambda: len(pair[1].submits) == 2)
    await session.send(cancel=(1, 77))
    await until(lambda: pair[1].aborted_at_s)
    pair[1].go.set()
    await session.read_until(2)
    assert 1 not in session.finished
    assert 1 not in session.errors
    assert len(session.tokens[1, 0]) == 1
    await session.call.done_writing()
    assert await session.call.code() == grpc.StatusCode.OK
    router.assert_idle()


async def test_a_session_whose_client_has_said_all_ends_with_its_last_answer(
    stub: InferenceAsyncStub, pair: Pair, router: Router
) -> None:
    pair[1].go.clear()
    session = Reader(stub)
    await session.send(start(1, 5), start(2, 3))
    await session.call.done_writing()
    await until(lambda: len(pair[1].submits) == 2)
    pair[1].go.set()
    await session.read_until(1, 2)
    async with asyncio.timeout(20):
        assert not isinstance(await session.call.read(), SessionResponse)
    assert await session.call.code() == grpc.StatusCode.OK
    router.assert_idle()


async def test_each_request_has_its_own_deadline(stub: InferenceAsyncStub, pair: Pair) -> None:
    pair[1].go.clear()
    session = Reader(stub)
    await session.send(start(1, 5, timeout_s=0.2), start(2, 5, timeout_s=30))
    await session.read_until(1)
    assert session.errors[1].status == grpc.StatusCode.DEADLINE_EXCEEDED.value[0]
    pair[1].go.set()
    await session.read_until(2)
    assert len(session.tokens[2, 0]) == 5


async def test_a_client_that_leaves_frees_everything(stub: InferenceAsyncStub, pair: Pair, router: Router) -> None:
    pair[1].go.clear()
    session = Reader(stub)
    await session.send(start(1, 50), start(2, 50))
    await until(lambda: len(pair[1].submits) == 2)
    session.call.cancel()
    await until(lambda: len(pair[1].aborted_at_s) == 2)
    router.assert_idle()


async def test_what_is_no_request_ends_the_session_as_the_clients_fault(router: Router) -> None:
    async with grpc.aio.insecure_channel(router.address) as channel:
        call = channel.stream_stream("/segue.v1.Inference/Session")()  # type: ignore[call-arg]
        await call.write(b"\xff\xff\xff")
        assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "no SessionRequest" in (await call.details() or "")


async def test_a_reader_that_does_not_read_is_ended_and_holds_up_nobody(codec: TextCodec) -> None:
    """Two clients of one router; one asks for much and reads nothing."""
    limits = Limits(max_write_buffer_bytes=200_000)
    async with running_router(codec, limits=limits) as router:
        _, decode = await router.attach_pair(answer=counting)
        # A window that doesn't grow: else one that was given time takes all that there is without a reader.
        options = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
        async with (
            grpc.aio.insecure_channel(router.address, options=options) as slow_channel,
            grpc.aio.insecure_channel(router.address, options=options) as other_channel,
        ):
            slow, other = Reader(InferenceStub(slow_channel)), Reader(InferenceStub(other_channel))
            await slow.send(*(start(id_, 3000) for id_ in range(1, 17)))
            await until(lambda: len(decode.submits) == 16)
            for id_ in range(1, 6):
                await other.send(start(id_, 5))
                await other.read_until(id_)
            await until(lambda: len(decode.aborted_at_s) == 16, timeout_s=240)
            with pytest.raises(grpc.aio.AioRpcError, match="reads too slowly"):
                await slow.read_until(1)
            assert await slow.call.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
            await asyncio.sleep(0)
            router.assert_idle()
