"""An attachment against a router's end on a real gRPC server."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import grpc
import pytest

from segue.base.errors import SettingsError
from segue.proto.worker_pb2 import Load, Register, RouterBacklog, RouterFrame, Status, WorkerState
from segue.worker import attachment as attachment_module
from segue.worker.attachment import CHANNEL_OPTIONS, Attachment
from tests.worker.fakes import REGISTER, FakeHub, eventually, prompt, tokens


class Owner:
    def __init__(self) -> None:
        self.register: Register = REGISTER
        self.status = Status(state=WorkerState.WORKER_STATE_LOADING)
        self.frames: list[RouterFrame] = []
        self.detached = 0
        self.others: list[RouterBacklog] = []

    def current_load(self) -> Load:
        return Load(free_blocks=7)

    def backlogs_beside(self, attachment: Attachment) -> list[RouterBacklog]:
        return self.others

    def on_frame(self, attachment: Attachment, frame: RouterFrame) -> None:
        self.frames.append(frame)

    def on_detached(self, attachment: Attachment) -> None:
        self.detached += 1


@asynccontextmanager
async def running(address: str, owner: Owner) -> AsyncIterator[tuple[Attachment, asyncio.Task[None]]]:
    attachment = Attachment(address, owner)
    task = asyncio.create_task(attachment.run())
    try:
        yield attachment, task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError, SettingsError):
            await task


@pytest.fixture
def owner() -> Owner:
    return Owner()


async def test_the_first_frame_registers_and_frames_go_both_ways(owner: Owner) -> None:
    async with FakeHub() as hub, running(hub.address, owner) as (attachment, _):
        session = await hub.session()
        assert session.frames[0].register == REGISTER
        assert session.frames[0].status.state == WorkerState.WORKER_STATE_LOADING
        await session.send(RouterFrame(submit=[prompt("a")]))
        await eventually(lambda: len(owner.frames) == 2)
        assert owner.frames[0].registered.router_id == "r-0"
        assert owner.frames[1].submit[0].request_id == "a"
        attachment.outbox.put_outputs([tokens("a", 5)])
        await eventually(lambda: session.outputs == [tokens("a", 5)])


async def test_load_is_told_again_and_again(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attachment_module, "_LOAD_INTERVAL_S", 0.01)
    async with FakeHub() as hub, running(hub.address, owner):
        session = await hub.session()
        await eventually(lambda: sum(frame.load.free_blocks == 7 for frame in session.frames) >= 3)


async def test_what_a_router_has_in_hand_is_known_while_its_stream_is_open_and_others_backlogs_are_told(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attachment_module, "_LOAD_INTERVAL_S", 0.01)
    ours, other = (RouterBacklog(router_id=name, number=1, prefill_tokens=5) for name in ("r-0", "r-1"))
    async with FakeHub() as hub, running(hub.address, owner) as (attachment, _):
        session = await hub.session()
        await session.send(RouterFrame(backlog=ours))
        await eventually(lambda: attachment.backlog == ours)
        assert not any(frame.other_routers.routers for frame in session.frames)
        owner.others = [other]
        await eventually(lambda: list(session.frames[-1].other_routers.routers) == [other])
        owner.others = []
        await eventually(lambda: session.frames[-1].HasField("load") and not session.frames[-1].other_routers.routers)
        session.end.set_result((grpc.StatusCode.UNAVAILABLE, "gone"))
        await eventually(lambda: attachment.backlog is None)


async def test_a_router_that_is_not_there_yet_is_dialled_until_it_is(owner: Owner) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    async with running(f"127.0.0.1:{port}", owner) as (_, task):
        await eventually(lambda: owner.detached >= 1)
        assert not task.done()
        async with FakeHub(port) as hub:
            await hub.session()


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.INTERNAL, grpc.StatusCode.CANCELLED],
)
async def test_it_dials_again_when_the_stream_breaks(owner: Owner, code: grpc.StatusCode) -> None:
    async with FakeHub() as hub, running(hub.address, owner) as (attachment, task):
        first = await hub.session(0)
        stale = attachment.outbox
        first.end.set_result((code, "for a reason"))
        second = await hub.session(1)
        assert second.frames[0].register == REGISTER
        assert owner.detached == 1
        assert attachment.outbox is not stale, "frames for the old stream must not go out on the new one"
        attachment.outbox.put_outputs([tokens("a", 5)])
        await eventually(lambda: second.outputs == [tokens("a", 5)])
        assert not task.done()


async def test_it_dials_again_when_the_router_restarts(owner: Owner) -> None:
    hub = FakeHub()
    async with running(hub.address, owner) as (_, task):
        async with hub:
            await hub.session()
        await eventually(lambda: owner.detached >= 1)
        assert not task.done()
        async with FakeHub(hub.port) as another:
            await another.session()


async def test_a_router_that_never_answers_is_given_up_and_dialled_again(
    owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that swallows everything: no end of the stream is ever told."""
    monkeypatch.setattr(attachment_module, "_ANSWER_TIMEOUT_S", 0.2)
    async with FakeHub() as hub:
        hub.silent = True
        async with running(hub.address, owner):
            await eventually(lambda: owner.detached >= 2)
            hub.silent = False
            await hub.session()


async def test_a_link_that_swallows_everything_ends_the_stream(owner: Owner, monkeypatch: pytest.MonkeyPatch) -> None:
    fast = [(name, value // 10 if "keepalive" in name or "ping" in name else value) for name, value in CHANNEL_OPTIONS]
    monkeypatch.setattr(attachment_module, "CHANNEL_OPTIONS", fast)
    async with FakeHub() as hub, stallable(hub.port) as (address, stall), running(address, owner):
        await hub.session()
        stall.set()
        await eventually(lambda: owner.detached >= 1)


@asynccontextmanager
async def stallable(port: int) -> AsyncIterator[tuple[str, asyncio.Event]]:
    """A TCP proxy that takes everything and passes nothing on once the event is set."""
    stall = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:

        async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with suppress(ConnectionError):
                while data := await reader.read(65536):
                    if not stall.is_set():
                        writer.write(data)
            writer.close()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            there = await asyncio.open_connection("127.0.0.1", port)
            pumps.append(tasks.create_task(copy(reader, there[1])))
            pumps.append(tasks.create_task(copy(there[0], writer)))

        pumps: list[asyncio.Task[None]] = []
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}", stall
        finally:
            server.close()
            for pump in pumps:
                pump.cancel()


@pytest.mark.parametrize("code", [grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT])
@pytest.mark.parametrize("accepted_first", [False, True])
async def test_a_refusal_is_a_settings_error_in_the_routers_words(
    owner: Owner, code: grpc.StatusCode, accepted_first: bool
) -> None:
    """A router may refuse at once (protocol) or when it hears of the engine (layout)."""
    words = "dtype: 'bfloat16' here, 'float32' there"
    async with FakeHub() as hub:
        if not accepted_first:
            hub.refusal = (code, words)
        async with running(hub.address, owner) as (_, task):
            if accepted_first:
                (await hub.session()).end.set_result((code, words))
            with pytest.raises(SettingsError, match=rf"router {hub.address} refuses this worker: {words}"):
                async with asyncio.timeout(30):
                    await task
        assert owner.detached == 1


async def test_cancellation_ends_the_stream_at_the_router(owner: Owner) -> None:
    async with FakeHub() as hub:
        async with running(hub.address, owner):
            session = await hub.session()
        async with asyncio.timeout(30):
            await session.over.wait()
        assert owner.detached == 1
