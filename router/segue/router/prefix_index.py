"""Which worker has which blocks in its prefix cache, in bounded memory.

A block's name stands for all tokens up to its end (:mod:`segue.base.block_hash`), so no tree is needed: a table from
names to sets of workers, walked along a prompt's names, tells of every worker at once how far its cache goes. A set is
a bit pattern, one bit a worker, and equal sets are one object.

Memory is bounded by blocks: the table has two generations, of which only the younger one grows. What is stored or met
by a look-up moves to it; when it is half of what is allowed, the older one is dropped and it becomes the older one. So
what nobody has asked for longest goes first, and look-ups, which begin at a prompt's beginning, keep beginnings longer
than ends. The table is cut into pieces by name, so that dropping and sweeping stop nobody for long.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

DEFAULT_MOST_BLOCKS = 4_000_000
_PIECES = 1024
_SHARED_SETS = 65_536
_LOOK_UP = 256  # Names at a time: a list of them costs half of what a loop does.


class PrefixIndex:
    """``most_blocks`` bounds the names that are remembered, over all workers; a name counts once."""

    def __init__(self, most_blocks: int = DEFAULT_MOST_BLOCKS, pieces: int = _PIECES) -> None:
        self._mask = pieces - 1
        if pieces & self._mask:
            raise ValueError(f"pieces must be a power of two, not {pieces}")
        self._most_young = max(1, most_blocks // pieces // 2)
        self._young: list[dict[int, int]] = [{} for _ in range(pieces)]
        self._old: list[dict[int, int]] = [{} for _ in range(pieces)]
        self._bits: dict[str, int] = {}
        self._workers: dict[int, str] = {}
        self._live = 0  # All bits in use.
        self._retired = 0  # Bits of workers that are gone, which the table may still have.
        self._sweeping = 0
        self._next_piece = pieces  # Of the sweep; nothing to sweep.
        self._sets: dict[int, int] = {}
        self.dropped_blocks = 0  # For lack of room, ever.

    def __len__(self) -> int:
        """Names in the table."""
        return sum(map(len, self._young)) + sum(map(len, self._old))

    @property
    def empty(self) -> bool:
        """Whether no worker has told of its cache."""
        return not self._bits

    def knows(self, worker_id: str) -> bool:
        return worker_id in self._bits

    def store(self, worker_id: str, names: Iterable[int]) -> None:
        """The worker has these blocks."""
        bit = self._bits.get(worker_id) or self._new_bit(worker_id)
        young, old, mask, sets = self._young, self._old, self._mask, self._sets
        last_had, has = 0, bit
        for name in names:
            piece = young[name & mask]
            had = piece.get(name)
            if had is None:
                had = old[name & mask].pop(name, 0)
                if len(piece) >= self._most_young:
                    piece = self._turn(name & mask)
            if had is not last_had:  # Blocks of one chain mostly are in the same caches.
                last_had, has = had, sets.setdefault(had | bit, had | bit)
            piece[name] = has
        if len(sets) > _SHARED_SETS:
            sets.clear()
        self._sweep()

    def remove(self, worker_id: str, names: Iterable[int]) -> None:
        """The worker no longer has these blocks."""
        bit = self._bits.get(worker_id, 0)
        young, old, mask = self._young, self._old, self._mask
        for name in names:
            piece = young[name & mask]
            if name not in piece:
                piece = old[name & mask]
            left = piece.get(name, 0) & ~bit
            if left:
                piece[name] = left
            else:
                piece.pop(name, None)

    def forget(self, worker_id: str) -> None:
        """The worker has none of what it had: it is gone, or its cache is cleared. As quick for a large cache."""
        bit = self._bits.pop(worker_id, 0)
        if bit:
            del self._workers[bit]
            self._live &= ~bit
            self._retired |= bit

    def overlaps(self, names: Sequence[int]) -> Mapping[str, int]:
        """How many of a prompt's first blocks each worker has; workers that don't have the first are left out."""
        alive, blocks = self._live, 0
        found: dict[str, int] = {}
        if not alive:
            return found
        young, mask = self._young, self._mask
        for begin in range(0, len(names), _LOOK_UP):
            part = names[begin : begin + _LOOK_UP]
            sets = [young[name & mask].get(name) for name in part]
            has = sets[0]
            if has is not None and not alive & ~has and sets.count(has) == len(sets):
                blocks += len(sets)  # Mostly all of them are in the same caches.
                continue
            for has, name in zip(sets, part, strict=True):
                known = self._recall(name) if has is None else has
                if alive & ~known:
                    self._tell(found, alive & ~known, blocks)
                    alive &= known
                    if not alive:
                        return found
                blocks += 1
        self._tell(found, alive, blocks)
        return found

    def _tell(self, found: dict[str, int], bits: int, blocks: int) -> None:
        while bits and blocks:
            bit = bits & -bits
            found[self._workers[bit]] = blocks
            bits ^= bit

    def _recall(self, name: int) -> int:
        """Move a name that is still of use to the younger generation; 0 if it is in neither."""
        number = name & self._mask
        has = self._old[number].pop(name, 0)
        if not has:
            return self._young[number].get(name, 0)
        piece = self._young[number]
        if len(piece) >= self._most_young:
            piece = self._turn(number)
        piece[name] = has
        return has

    def _turn(self, number: int) -> dict[int, int]:
        """The younger generation of a piece becomes the older one."""
        self.dropped_blocks += len(self._old[number])
        self._old[number] = self._young[number]
        self._young[number] = {}
        return self._young[number]

    def _new_bit(self, worker_id: str) -> int:
        taken = self._live | self._retired | self._sweeping
        bit = ~taken & (taken + 1)  # The lowest that is free.
        self._bits[worker_id] = bit
        self._workers[bit] = worker_id
        self._live |= bit
        return bit

    def _sweep(self) -> None:
        """Clear retired bits from one piece of the table; once through, they can be given out again."""
        if self._next_piece > self._mask:
            self._sweeping = 0
            if not self._retired:
                return
            self._sweeping, self._retired, self._next_piece = self._retired, 0, 0
        keep = ~self._sweeping
        for generation in (self._young, self._old):
            piece = generation[self._next_piece]
            if any(has & self._sweeping for has in piece.values()):
                generation[self._next_piece] = {name: has & keep for name, has in piece.items() if has & keep}
        self._next_piece += 1
