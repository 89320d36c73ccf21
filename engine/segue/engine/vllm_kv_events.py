"""vLLM's own KV cache events, told in Segue's names."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from typing import Any

import msgspec
import zmq
import zmq.asyncio
from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVCacheEvent, KVEventBatch

from segue.base.block_hash import NO_PARENT, block_hashes
from segue.base.logging import get_logger
from segue.proto.worker_pb2 import KvEvent

log = get_logger("engine")

_VllmName = bytes | int


class KvEventNames:
    """Translates one engine's events. What it calls a block differs from engine to engine (vLLM hashes with a seed of
    its own); the tokens that come with a stored block give it the name that all know it by.

    vLLM may hold several copies of a block, computed side by side, and tells of each; here a name is stored with the
    first and removed with the last. Blocks whose content depends on more than the tokens (adapters, images, a cache
    salt) are not told of, nor those of a size other than ``block_tokens`` and of further cache groups.
    """

    def __init__(self, block_tokens: int) -> None:
        self._block_tokens = block_tokens
        self._known: dict[_VllmName, tuple[int, int]] = {}  # Our name, copies.

    def translate(self, events: Iterable[KVCacheEvent]) -> list[KvEvent]:
        told: list[KvEvent] = []
        for kind, run in groupby(events, type):
            if kind is BlockRemoved:
                removed = [name for event in run for name in self._removed(event)]
                if removed:
                    told.append(KvEvent(removed=KvEvent.Removed(blocks=removed)))
            elif kind is BlockStored:
                told += [stored for event in run if (stored := self._stored(event)) is not None]
            elif kind is AllBlocksCleared:
                told.append(self.clear())
        return told

    def clear(self) -> KvEvent:
        self._known.clear()
        return KvEvent(cleared=True)

    def _stored(self, event: Any) -> KvEvent | None:
        if event.group_idx or event.block_size != self._block_tokens or any(event.extra_keys or ()):
            return None
        parent = NO_PARENT
        if event.parent_block_hash is not None:
            before = self._known.get(event.parent_block_hash)
            if before is None:  # One that was not told of.
                return None
            parent = before[0]
        names = block_hashes(event.token_ids, self._block_tokens, parent)
        if len(names) != len(event.block_hashes):  # Parts of the prompt are left out: a sliding window's.
            return None
        new = 0
        for theirs, name in zip(event.block_hashes, names, strict=True):
            _, copies = self._known.get(theirs, (name, 0))
            self._known[theirs] = (name, copies + 1)
            new += not copies
        # All of them, if only some are new: the chain stays whole, and storing a name twice does no harm.
        return KvEvent(stored=KvEvent.Stored(parent=parent, blocks=names)) if new else None

    def _removed(self, event: Any) -> Iterable[int]:
        for theirs in event.block_hashes:
            name, copies = self._known.get(theirs, (NO_PARENT, 0))
            if event.group_idx or not copies:
                continue
            if copies > 1:
                self._known[theirs] = (name, copies - 1)
            else:
                del self._known[theirs]
                yield name


class TakenEvents:
    """Put in place of an in-process scheduler's publisher: keeps what it would publish until it is taken."""

    def __init__(self, names: KvEventNames) -> None:
        self._names = names
        self._events: list[KvEvent] = []

    @staticmethod
    def config() -> KVEventsConfig:
        return KVEventsConfig(enable_kv_cache_events=True, publisher="null")

    def publish(self, batch: KVEventBatch) -> None:
        self._events += self._names.translate(batch.events)

    def take(self) -> Sequence[KvEvent]:
        taken, self._events = self._events, []
        return taken

    def shutdown(self) -> None:
        return


class SubscribedEvents:
    """The events of an engine core in another process, over a socket in a directory of our own.

    A batch that gets lost on the way (vLLM drops them when nobody reads) is noticed by its number. What was known is
    then cleared: an engine that is thought to have less than it has costs a cache hit, the other way round more.
    """

    def __init__(self) -> None:
        self._directory = tempfile.mkdtemp(prefix="segue-kv-")
        self._socket: zmq.asyncio.Socket = zmq.asyncio.Context.instance().socket(zmq.SUB)
        self._socket.subscribe(b"")
        self._socket.set_hwm(0)
        self._socket.connect(self._endpoint)

    @property
    def _endpoint(self) -> str:
        return f"ipc://{self._directory}/events"

    def config(self) -> KVEventsConfig:
        return KVEventsConfig(enable_kv_cache_events=True, publisher="zmq", endpoint=self._endpoint, buffer_steps=1)

    async def read(self, names: KvEventNames, tell: Callable[[Sequence[KvEvent]], None]) -> None:
        """Never returns."""
        decoder = msgspec.msgpack.Decoder(_Batch)
        expected = 0
        while True:
            _, number, payload = await self._socket.recv_multipart()
            seen = int.from_bytes(number, "big")
            told = []
            if seen != expected:
                log.warning("kv_events_lost", batches=seen - expected)
                told.append(names.clear())
            expected = seen + 1
            try:
                told += names.translate(decoder.decode(payload).events)
            except msgspec.MsgspecError as error:
                log.warning("kv_events_not_understood", error=str(error))
                told.append(names.clear())
            if told:
                tell(told)

    def close(self) -> None:
        self._socket.close(linger=0)
        shutil.rmtree(self._directory, ignore_errors=True)


class _Batch(msgspec.Struct, array_like=True):
    """vLLM's ``KVEventBatch``, whose events it declares as anything."""

    ts: float
    events: list[BlockStored | BlockRemoved | AllBlocksCleared]
    data_parallel_rank: int | None = None
