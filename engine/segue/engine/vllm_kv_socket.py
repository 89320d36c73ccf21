"""vLLM's KV cache events from an engine core in another process."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import closing

import msgspec
import zmq
import zmq.asyncio
from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, ZmqEventPublisher

from segue.base.logging import get_logger
from segue.engine.vllm_kv_events import KvEventNames
from segue.proto.worker_pb2 import KvEvent

log = get_logger("engine")

# vLLM keeps so many batches, one a step, and sends all of them when asked. Its socket drops what goes beyond 1,000.
_KEPT_BATCHES = 512
_REPLAY_S = 2.0  # vLLM looks for questions between two batches, or every 0.1 s.
_END = int.from_bytes(ZmqEventPublisher.END_SEQ, "big")

Tell = Callable[[Sequence[KvEvent]], None]


class SubscribedEvents:
    """The events of an engine core in another process, over sockets in a directory of our own.

    A batch that gets lost on the way (before the subscription has reached vLLM, or when nobody reads) is noticed by its
    number, and vLLM is asked for it. If it doesn't have it any more, or doesn't answer in ``replay_s`` seconds, what
    was known is cleared: an engine that is thought to have less than it has costs a cache hit, the other way round
    more.
    """

    def __init__(self, replay_s: float = _REPLAY_S) -> None:
        self._directory = tempfile.mkdtemp(prefix="segue-kv-")
        self._replay_s = replay_s
        self._context = zmq.asyncio.Context.instance()
        self._socket: zmq.asyncio.Socket = self._context.socket(zmq.SUB)
        self._decoder = msgspec.msgpack.Decoder(_Batch)
        self._expected = 0  # The next batch's number.

    def config(self) -> KVEventsConfig:
        return KVEventsConfig(
            enable_kv_cache_events=True,
            publisher="zmq",
            endpoint=self._endpoint("events"),
            replay_endpoint=self._endpoint("replay"),
            buffer_steps=_KEPT_BATCHES,
        )

    def connect(self) -> None:
        """Once, before :meth:`read`. What comes waits to be read."""
        self._socket.subscribe(b"")
        self._socket.set_hwm(0)
        self._socket.connect(self._endpoint("events"))

    async def read(self, names: KvEventNames, tell: Tell) -> None:
        """Never returns. Numbers never begin again: a core that ends takes its engine with it."""
        while True:
            _, number, payload = await self._socket.recv_multipart()
            seen = int.from_bytes(number, "big")
            if seen > self._expected:
                await self._recover(seen, names, tell)
            if seen >= self._expected:  # Else it was among what has been sent again.
                self._take(seen, payload, names, tell)

    async def _recover(self, seen: int, names: KvEventNames, tell: Tell) -> None:
        """Take what is missing before batch ``seen``, and what else comes with it."""
        lost = seen - self._expected
        async for number, payload in self._sent_again(self._expected):
            if number >= self._expected:
                self._take(number, payload, names, tell)
        if self._expected < seen:
            log.warning("kv_events_lost", batches=lost)
        else:
            log.info("kv_events_sent_again", batches=lost)

    async def _sent_again(self, first: int) -> AsyncIterator[tuple[int, bytes]]:
        """Those of the batches from ``first`` on that vLLM has, as far as they come in time."""
        until_s = asyncio.get_running_loop().time() + self._replay_s
        with closing(self._context.socket(zmq.DEALER)) as socket:  # A new one each time: late answers go with it.
            socket.set(zmq.LINGER, 0)
            socket.set_hwm(0)
            socket.connect(self._endpoint("replay"))
            await socket.send_multipart((b"", first.to_bytes(8, "big")))
            while (left_s := until_s - asyncio.get_running_loop().time()) > 0:
                if not await socket.poll(1000 * left_s):
                    return
                *_, number, payload = await socket.recv_multipart()
                if (seen := int.from_bytes(number, "big")) == _END:
                    return
                yield seen, payload

    def _take(self, number: int, payload: bytes, names: KvEventNames, tell: Tell) -> None:
        told = [names.clear()] if number > self._expected else []
        self._expected = number + 1
        try:
            told += names.translate(self._decoder.decode(payload).events)
        except msgspec.MsgspecError as error:
            log.warning("kv_events_not_understood", error=str(error))
            told.append(names.clear())
        if told:
            tell(told)

    def close(self) -> None:
        self._socket.close(linger=0)
        shutil.rmtree(self._directory, ignore_errors=True)

    def _endpoint(self, name: str) -> str:
        return f"ipc://{self._directory}/{name}"


class _Batch(msgspec.Struct, array_like=True):
    """vLLM's ``KVEventBatch``, whose events it declares as anything."""

    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None
