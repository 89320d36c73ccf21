"""vLLM's own KV cache events, told in Segue's names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import AllBlocksCleared, BlockRemoved, BlockStored, KVCacheEvent, KVEventBatch

from segue.base.block_hash import NO_PARENT, block_hashes
from segue.proto.worker_pb2 import KvEvent

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
