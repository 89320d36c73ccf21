"""Sets of workers as small numbers: a set is a bit pattern, one bit a worker, and equal sets have one number."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

NOBODY = 0
# Bits of workers that are gone, before they are looked for in all sets to be given out again.
_MOST_RETIRED = 64


class WorkerSets:
    """Number 0 is the empty set. Workers that are gone stay in the sets that they were in, but are told of no more."""

    def __init__(self) -> None:
        self.live = 0  # All bits in use.
        self._bits: dict[str, int] = {}
        self._workers: dict[int, str] = {}
        self._retired = 0
        self._masks = [0]
        self._numbers = {0: NOBODY}
        self._most = 1 << 16

    def __contains__(self, worker_id: str) -> bool:
        return worker_id in self._bits

    def __bool__(self) -> bool:
        return bool(self._bits)

    @property
    def crowded(self) -> bool:
        """Whether :meth:`compact` is due."""
        return len(self._masks) > self._most or self._retired.bit_count() > _MOST_RETIRED

    def bit(self, worker_id: str) -> int:
        """The worker's own; 0 if it has none."""
        return self._bits.get(worker_id, 0)

    def add(self, worker_id: str) -> int:
        """The worker's own bit, from now on if it had none."""
        bit = self._bits.get(worker_id, 0)
        if not bit:
            taken = self.live | self._retired
            bit = ~taken & (taken + 1)  # The lowest that is free.
            self._bits[worker_id] = bit
            self._workers[bit] = worker_id
            self.live |= bit
        return bit

    def forget(self, worker_id: str) -> None:
        """As quick for a large cache."""
        bit = self._bits.pop(worker_id, 0)
        if bit:
            del self._workers[bit]
            self.live &= ~bit
            self._retired |= bit

    def mask(self, number: int) -> int:
        return self._masks[number]

    def workers(self, mask: int) -> list[str]:
        found = []
        while mask:
            bit = mask & -mask
            found.append(self._workers[bit])
            mask ^= bit
        return found

    def with_bit(self, number: int, bit: int) -> int:
        return self._number(self._masks[number] | bit)

    def without_bit(self, number: int, bit: int) -> int:
        return self._number(self._masks[number] & ~bit)

    def compact(self, in_use: NDArray[np.bool_]) -> NDArray[np.uint32]:
        """Forget the sets that are not ``in_use``, by number, and the workers that are gone. The new number of each."""
        masks, self._masks, self._numbers = self._masks, [0], {0: NOBODY}
        renumbered = np.zeros(len(masks), np.uint32)
        for number in np.flatnonzero(in_use).tolist():
            renumbered[number] = self._number(masks[number] & ~self._retired)
        self._retired = 0
        self._most = max(1 << 16, 2 * len(self._masks))
        return renumbered

    def __len__(self) -> int:
        """How many numbers are given out."""
        return len(self._masks)

    def _number(self, mask: int) -> int:
        number = self._numbers.setdefault(mask, len(self._masks))
        if number == len(self._masks):
            self._masks.append(mask)
        return number
