"""What is in the engine's prefix cache, by name, for routers that weren't there when it was stored."""

from __future__ import annotations

from collections.abc import Iterable

from segue.base.block_hash import NO_PARENT
from segue.proto.worker_pb2 import KvEvent

# Blocks of one event of a snapshot, so that it can be cut into frames.
MOST_BLOCKS = 1024


class KvCacheView:
    """The name of each block and of the one before it: some 150 bytes a block."""

    def __init__(self) -> None:
        self._parents: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._parents)

    def apply(self, events: Iterable[KvEvent]) -> None:
        for event in events:
            kind = event.WhichOneof("event")
            if kind == "stored":
                parent = event.stored.parent
                for name in event.stored.blocks:
                    self._parents[name] = parent
                    parent = name
            elif kind == "removed":
                for name in event.removed.blocks:
                    self._parents.pop(name, None)
            elif kind == "cleared":
                self._parents.clear()

    def snapshot(self) -> list[KvEvent]:
        """All of it as stored events, each one chain of at most ``MOST_BLOCKS`` blocks."""
        chains: list[tuple[int, list[int]]] = []
        last = NO_PARENT
        for name, parent in self._parents.items():
            if not chains or parent != last or len(chains[-1][1]) == MOST_BLOCKS:
                chains.append((parent, []))
            chains[-1][1].append(name)
            last = name
        return [KvEvent(stored=KvEvent.Stored(parent=parent, blocks=blocks)) for parent, blocks in chains]
