"""Two ways for many streams through one router: a call for each, or all of them on a few sessions."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
from simulated.streams import Stream, Streams

from segue.proto.inference_pb2 import SessionRequest, SessionResponse, SessionStart
from segue.proto.inference_pb2_grpc import InferenceStub

_CALLS_PER_CHANNEL = 250
_STREAMS_PER_SESSION = 2500
_AFTER_FAILURE_S = 1.0  # A router that refuses is not to be asked again at once.


def _channel(address: str) -> grpc.aio.Channel:
    # Each its own connection.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1)]
    return grpc.aio.insecure_channel(address, options=options)


async def by_generate(streams: Streams) -> None:
    load = streams.load
    channels = [_channel(load.address) for _ in range(-(-load.streams // _CALLS_PER_CHANNEL))]
    async with asyncio.TaskGroup() as tasks:
        for number in range(load.streams):
            tasks.create_task(_one_after_the_other(streams, InferenceStub(channels[number % len(channels)])))
            await streams.turn(number + 1)
    for channel in channels:
        await channel.close(grace=None)


async def _one_after_the_other(streams: Streams, stub: Any) -> None:
    counts = streams.counts
    while not streams.over:
        stream = streams.begin()
        try:
            async for message in stub.Generate(stream.request, timeout=streams.load.timeout_s):
                counts.messages += 1
                for choice in message.choices:
                    counts.tokens += len(choice.token_ids)
                    stream.take(choice.token_ids)
        except grpc.aio.AioRpcError as broken:
            streams.ended(stream, f"{broken.code().name} {broken.details()}")
            await asyncio.sleep(_AFTER_FAILURE_S)
        else:
            streams.ended(stream)


async def by_session(streams: Streams) -> None:
    load = streams.load
    count = -(-load.streams // _STREAMS_PER_SESSION)
    channels = [_channel(load.address) for _ in range(count)]
    sessions = [_Session(streams, channel) for channel in channels]
    async with asyncio.TaskGroup() as tasks:
        running = [tasks.create_task(session.run()) for session in sessions]
        for number in range(load.streams):
            sessions[number % count].begin()
            await streams.turn(number + 1)
        for session in sessions:
            session.all_begun = True
            session.wake()
        await asyncio.wait(running)
    for channel in channels:
        await channel.close(grace=None)


class _Session:
    """Streams of one call, by the numbers that we give them."""

    def __init__(self, streams: Streams, channel: grpc.aio.Channel) -> None:
        self.all_begun = False
        self._streams = streams
        self._call: Any = InferenceStub(channel).Session()  # type: ignore[call-arg]  # Writing by hand needs no iterator.
        self._open: dict[int, Stream] = {}
        self._to_start: list[SessionStart] = []
        self._last_id = 0
        self._woken = asyncio.Event()

    def begin(self) -> None:
        stream = self._streams.begin()
        self._last_id += 1
        self._open[self._last_id] = stream
        timeout_s = self._streams.load.timeout_s
        self._to_start.append(SessionStart(id=self._last_id, request=stream.request, timeout_s=timeout_s))
        self._woken.set()

    def wake(self) -> None:
        self._woken.set()

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._send())
            try:
                async for response in self._call:
                    self._take(response)
                error = "ended the session ended"
            except grpc.aio.AioRpcError as broken:
                error = f"{broken.code().name} of the session: {broken.details()}"
            for number in list(self._open):
                self._streams.ended(self._open.pop(number), error)
            self.all_begun = True
            self.wake()

    async def _send(self) -> None:
        """Until all streams have begun and ended."""
        while self._open or self._to_start or not self.all_begun:
            await self._woken.wait()
            self._woken.clear()
            if self._to_start:
                request, self._to_start = SessionRequest(start=self._to_start), []
                await self._call.write(request)
        await self._call.done_writing()

    def _take(self, response: SessionResponse) -> None:
        counts, open_ = self._streams.counts, self._open
        counts.messages += 1
        counts.tokens += len(response.ids)
        for number, token in zip(response.ids, response.token_ids, strict=True):
            open_[number].take((token,))
        for part in response.parts:
            for choice in part.response.choices:
                counts.tokens += len(choice.token_ids)
                open_[part.id].take(choice.token_ids)
            if part.response.HasField("usage"):
                self._ended(part.id)
        for error in response.errors:
            self._ended(error.id, f"{error.code or error.status} {error.message}")

    def _ended(self, number: int, error: str = "") -> None:
        self._streams.ended(self._open.pop(number), error)
        if not self._streams.over:
            loop = asyncio.get_running_loop()
            loop.call_later(_AFTER_FAILURE_S if error else 0.0, self.begin)
        self._woken.set()
