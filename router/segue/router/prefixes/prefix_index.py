"""Which worker has which blocks in its prefix cache, in bounded memory.

A block's name stands for all tokens up to its end (:mod:`segue.base.block_hash`), so no tree is needed: a table from
names to sets of workers, walked along a prompt's names, tells of every worker at once how far its cache goes.

Memory is bounded by blocks: there are two tables, of which only the younger one is added to. What is stored or met by a
look-up moves to it; when it is half of what is allowed, the older one is dropped and it becomes the older one. So what
nobody has asked for longest goes first, and look-ups, which begin at a prompt's beginning, keep beginnings longer than
ends. Where there is room, what is in the older table moves to the younger one bit by bit, and nothing is lost: so the
tables grow, and get rid of names that no worker has any more. Nothing stops the process for long.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segue.router.prefixes.block_table import BlockTable, Names, Values
from segue.router.prefixes.worker_sets import NOBODY, WorkerSets

DEFAULT_MOST_BLOCKS = 4_000_000
_FIRST_SIZE = 1 << 14
_FEW = 16
# Names at a time: an answer's prompt mostly is known to its end or not at all.
_FIRST_LOOK, _LOOK_UP = 64, 4096
_LEAST_MOVED = 4096  # Slots of the older table, before each store.


class PrefixIndex:
    """``most_blocks`` bounds the names that are remembered, over all workers; a name counts once. Tables begin with
    ``first_size`` slots, a power of two; up to ``few`` names are handled one by one."""

    def __init__(self, most_blocks: int = DEFAULT_MOST_BLOCKS, first_size: int = _FIRST_SIZE, few: int = _FEW) -> None:
        self._few = few
        self._most_young = max(1, most_blocks // 2)
        self._largest = 1 << (2 * self._most_young - 1).bit_length()
        self._young = BlockTable(max(2, min(first_size, self._largest)))
        self._old: BlockTable | None = None
        self._moved = -1  # Slots of the older table that have been emptied; -1: it isn't being emptied.
        self._sets = WorkerSets()
        self.dropped_blocks = 0  # For lack of room, ever.

    def __len__(self) -> int:
        """Names that workers are known to have."""
        return self._young.live + (self._old.live if self._old is not None else 0)

    @property
    def empty(self) -> bool:
        """Whether no worker has told of its cache."""
        return not self._sets

    def knows(self, worker_id: str) -> bool:
        return worker_id in self._sets

    def store(self, worker_id: str, names: Sequence[int] | NDArray[Any]) -> None:
        """The worker has these blocks."""
        bit = self._sets.add(worker_id)
        for begin in range(0, len(names), self._room):
            part = names[begin : begin + self._room]
            self._move(len(part))
            if self._make_room(len(part)):
                self._move(len(part))
            if len(part) <= self._few:
                for name in part:
                    self._store_one(int(name) or 1, bit)
            else:
                self._store(_array(part), bit)
        if self._sets.crowded:
            self._compact()

    def remove(self, worker_id: str, names: Sequence[int] | NDArray[Any]) -> None:
        """The worker no longer has these blocks."""
        bit = self._sets.bit(worker_id)
        if not bit:
            return
        if len(names) <= self._few:
            for name in names:
                self._remove_one(int(name) or 1, bit)
            return
        array = _array(names)
        for table in (self._young, self._old):
            if table is not None:
                slots, had = table.get(array)
                known = np.flatnonzero(had)
                if known.size:
                    left = _each(had[known], lambda number: self._sets.without_bit(number, bit))
                    table.assign(slots[known], left)

    def forget(self, worker_id: str) -> None:
        """The worker has none of what it had: it is gone, or its cache is cleared. As quick for a large cache."""
        self._sets.forget(worker_id)

    def overlaps(self, names: Sequence[int] | NDArray[Any]) -> Mapping[str, int]:
        """How many of a prompt's first blocks each worker has; workers that don't have the first are left out."""
        found: dict[str, int] = {}
        alive, begin = self._sets.live, 0
        while alive and begin < len(names):
            end = begin + (_LOOK_UP if begin else _FIRST_LOOK)
            part = names[begin:end]
            known = self._recall(part) if len(part) > self._few else [self._recall_one(int(name) or 1) for name in part]
            for run in _runs(known):
                has = self._sets.mask(known[run])
                if alive & ~has:
                    self._tell(found, alive & ~has, begin + run)
                    alive &= has
                    if not alive:
                        break
            begin = end
        self._tell(found, alive, len(names))
        return found

    def _tell(self, found: dict[str, int], mask: int, blocks: int) -> None:
        if blocks:
            found.update(dict.fromkeys(self._sets.workers(mask), blocks))

    def _recall(self, names: Sequence[int] | NDArray[Any]) -> Values:
        """The sets that names have; those that are still of use move to the younger table."""
        array = _array(names)
        known = self._young.get(array)[1]
        if self._old is not None:
            missing = np.flatnonzero(known == NOBODY)
            if missing.size:
                moving = self._take_old(array[missing])
                known[missing] = moving
                kept = missing[moving != NOBODY]
                for begin in range(0, kept.size, self._room):
                    part = kept[begin : begin + self._room]
                    self._make_room(part.size)
                    self._young.put(array[part], self._young.find(array[part]), known[part])
        return known

    def _recall_one(self, name: int) -> int:
        young, old = self._young, self._old
        known: int = young.values.item(young.find_one(name))
        if not known and old is not None:
            slot = old.find_one(name)
            known = old.values.item(slot)
            if known:
                old.put_one(name, slot, NOBODY)
                self._make_room(1)
                self._young.put_one(name, self._young.find_one(name), known)
        return known

    def _take_old(self, names: Names) -> Values:
        """Out of the older table."""
        if self._old is None:
            return np.zeros(len(names), np.uint32)
        slots, had = self._old.get(names)
        taken = np.flatnonzero(had)
        self._old.assign(slots[taken], np.zeros(taken.size, np.uint32))
        return had

    def _store(self, names: Names, bit: int) -> None:
        young = self._young
        slots, had = young.get(names)
        if self._old is not None:
            missing = np.flatnonzero(had == NOBODY)
            had[missing] = self._take_old(names[missing])
        young.put(names, slots, _each(had, lambda number: self._sets.with_bit(number, bit)))

    def _store_one(self, name: int, bit: int) -> None:
        young, old = self._young, self._old
        slot = young.find_one(name)
        had = young.values.item(slot)
        if not had and old is not None:
            there = old.find_one(name)
            had = old.values.item(there)
            if had:
                old.put_one(name, there, NOBODY)
        young.put_one(name, slot, self._sets.with_bit(had, bit))

    def _remove_one(self, name: int, bit: int) -> None:
        for table in (self._young, self._old):
            if table is not None:
                slot = table.find_one(name)
                had = table.values.item(slot)
                if had:
                    table.put_one(name, slot, self._sets.without_bit(had, bit))

    @property
    def _room(self) -> int:
        """The most names that the younger table takes at once: with what moves to it they fit into an empty one."""
        return max(1, self._limit(self._young) // 2)

    def _limit(self, table: BlockTable) -> int:
        return min(table.size // 2, self._most_young)

    def _make_room(self, names: int) -> bool:
        """Whether the younger table could not take so many more, and has become the older one."""
        young = self._young
        if young.used + names <= self._limit(young):
            return False
        if self._old is not None:
            self.dropped_blocks += self._old.live
        crowded = 2 * young.live > self._limit(young)
        size = min(2 * young.size, self._largest) if crowded else young.size
        self._old, self._young = young, BlockTable(size)
        self._moved = 0 if 2 * young.live <= self._limit(self._young) else -1
        return True

    def _move(self, names: int) -> None:
        """Some of the older table to the younger one, if it is being emptied; so much before each store of so many
        names that it is empty when the younger one is full.

        What moves takes half of the younger table's limit at most, which is half of its slots: when the other half is
        taken, four times as many slots have been looked at, which are all.
        """
        old, young = self._old, self._young
        if old is None or self._moved < 0:
            return
        begin = self._moved
        end = min(begin + max(4 * names, _LEAST_MOVED), old.size)
        values = old.values[begin:end]
        kept = np.flatnonzero(values)
        if young.used + kept.size > self._limit(young):
            self._moved = -1
            return
        moving = old.keys[begin:end][kept]
        young.put(moving, young.find(moving), values[kept])
        old.assign(kept + begin, np.zeros(kept.size, np.uint32))
        self._moved = end
        if end == old.size:
            self._old, self._moved = None, -1

    def _compact(self) -> None:
        """Let go of sets that no name has any more, and of workers that are gone."""
        tables = [table for table in (self._young, self._old) if table is not None]
        in_use = np.zeros(len(self._sets), np.bool_)
        for table in tables:
            in_use[table.values] = True
        renumbered = self._sets.compact(in_use)
        for table in tables:
            table.values = renumbered[table.values]
            table.live = int(np.count_nonzero(table.values))


def _array(names: Sequence[int] | NDArray[Any]) -> Names:
    """0 is no name here."""
    return np.maximum(np.asarray(names, dtype=np.uint64), np.uint64(1))


def _runs(numbers: Values | list[int]) -> Iterable[int]:
    """Where the numbers change, and the first."""
    if isinstance(numbers, list):
        return range(len(numbers))
    return [0, *(np.flatnonzero(numbers[1:] != numbers[:-1]) + 1).tolist()]


def _each(numbers: Values, change: Callable[[int], int]) -> Values:
    """Change sets. Names that follow each other mostly have the same."""
    begins = np.flatnonzero(numbers[1:] != numbers[:-1]) + 1
    if not begins.size:
        return np.full(len(numbers), change(numbers.item(0)), np.uint32)
    runs = [0, *begins.tolist()]
    changed = np.array([change(numbers.item(run)) for run in runs], np.uint32)
    return np.repeat(changed, np.diff([*runs, len(numbers)]))
