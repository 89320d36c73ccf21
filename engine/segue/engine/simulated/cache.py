"""A paged KV cache without the KV: which blocks are held, by how many, and what is in them.

As vLLM's block pool: full blocks are found again by name, a block that nobody holds stays until its place is needed,
and the one that was let go first goes first. Blocks are numbered from 0; those never used yet are not represented, so
that an engine with a large cache costs no memory before it is filled.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segue.base.block_hash import NO_PARENT
from segue.proto.worker_pb2 import KvEvent


@dataclass(frozen=True, slots=True)
class Taken:
    """Blocks for one request; the first ``cached`` of them were there, with their content."""

    block_ids: list[int]
    cached: int


class BlockCache:
    """``capacity`` blocks. What it stores and forgets is told by :meth:`take_events`.

    ``content`` of a block is 64 bits that stand for its KV: the block's name if it is full.
    """

    def __init__(self, capacity: int, share_prefixes: bool = True) -> None:
        self.capacity = capacity
        self._share_prefixes = share_prefixes
        self._holders: list[int] = []  # By block id, as is the next.
        self._content: list[int] = []
        self._by_name: dict[int, int] = {}
        self._blank: list[int] = []  # Free, without a name.
        self._evictable: dict[int, None] = {}  # Free, with a name; the first goes first.
        self._events: list[KvEvent] = []

    @property
    def free_blocks(self) -> int:
        return self.capacity - len(self._holders) + len(self._blank) + len(self._evictable)

    @property
    def names(self) -> dict[int, int]:
        """Block ids by name: the prefix cache."""
        return self._by_name

    def holders(self, block_id: int) -> int:
        return self._holders[block_id]

    def content(self, block_id: int) -> int:
        return self._content[block_id]

    def cached_blocks(self, names: Sequence[int]) -> int:
        """How many of these, from the first on, are in the prefix cache."""
        if not self._share_prefixes:
            return 0
        by_name = self._by_name
        for count, name in enumerate(names):
            if name not in by_name:
                return count
        return len(names)

    def take(self, names: Sequence[int], blocks: int) -> Taken | None:
        """Hold ``blocks`` blocks, those of the prefix ``names`` shared with whoever has them; None if they don't fit.

        ``names`` are of full blocks that the request may skip computing; not more than ``blocks``.
        """
        cached = self.cached_blocks(names)
        shared = [self._by_name[name] for name in names[:cached]]
        unused = sum(1 for block_id in shared if not self._holders[block_id])
        if blocks - cached > self.free_blocks - unused:
            return None
        for block_id in shared:
            if not self._holders[block_id]:
                del self._evictable[block_id]
            self._holders[block_id] += 1
        return Taken(shared + [self._blank_block() for _ in range(blocks - cached)], cached)

    def extend(self, blocks: int) -> list[int] | None:
        """That many more blocks, not shared; None if there are fewer."""
        if blocks > self.free_blocks:
            return None
        return [self._blank_block() for _ in range(blocks)]

    def fill(self, block_id: int, content: int) -> None:
        """A part of a block has been computed. Held by one, and not yet full."""
        self._content[block_id] = content

    def fill_whole(self, block_id: int, name: int, parent: int) -> None:
        """A block is full: from now on others may share it, unless another one has that name already."""
        self._content[block_id] = name
        if self._share_prefixes and name not in self._by_name:
            self._by_name[name] = block_id
            self._tell_stored(name, parent)

    def release(self, block_ids: Sequence[int]) -> None:
        """Held by one fewer. Of one request's, the last blocks are the first to be forgotten."""
        for block_id in reversed(block_ids):
            self._holders[block_id] -= 1
            if self._holders[block_id]:
                continue
            if self._by_name.get(self._content[block_id]) == block_id:
                self._evictable[block_id] = None
            else:
                self._blank.append(block_id)

    def take_events(self) -> list[KvEvent]:
        """What has been stored and forgotten since the last call, in order."""
        events, self._events = self._events, []
        return events

    def _blank_block(self) -> int:
        """A free block, held by one now. There is one."""
        if self._blank:
            block_id = self._blank.pop()
        elif len(self._holders) < self.capacity:
            block_id = len(self._holders)
            self._holders.append(0)
            self._content.append(0)
        else:
            block_id = next(iter(self._evictable))
            del self._evictable[block_id]
            name = self._content[block_id]
            del self._by_name[name]
            self._tell_removed(name)
        self._holders[block_id] = 1
        self._content[block_id] = 0
        return block_id

    def _tell_stored(self, name: int, parent: int) -> None:
        last = self._events[-1] if self._events else None
        if last is not None and parent != NO_PARENT and last.WhichOneof("event") == "stored":
            blocks = last.stored.blocks
            if blocks[-1] == parent:
                blocks.append(name)
                return
        self._events.append(KvEvent(stored=KvEvent.Stored(parent=parent, blocks=[name])))

    def _tell_removed(self, name: int) -> None:
        last = self._events[-1] if self._events else None
        if last is not None and last.WhichOneof("event") == "removed":
            last.removed.blocks.append(name)
            return
        self._events.append(KvEvent(removed=KvEvent.Removed(blocks=[name])))
