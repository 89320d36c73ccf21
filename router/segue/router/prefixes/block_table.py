"""A table from block names to small numbers, in two arrays: hundreds of names are looked up or stored in one go.

A Python dictionary takes four times the memory, and a step of the interpreter for each name.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Names = NDArray[np.uint64]
Slots = NDArray[np.intp]
Values = NDArray[np.uint32]

_STEP_SHIFT = 40


class BlockTable:
    """Open addressing with a step of each name's own. ``size`` is a power of two; at most half of it is to be ``used``.

    Names are uniformly distributed and never 0. A value of 0 means that the name is not of interest: it still takes a
    slot.
    """

    def __init__(self, size: int) -> None:
        self.keys: Names = np.zeros(size, np.uint64)
        self.values: Values = np.zeros(size, np.uint32)
        self.size = size
        self.used = 0
        self.live = 0  # Names with a value.
        self._mask = size - 1

    def find(self, names: Names) -> Slots:
        """Where each name is, or would be put."""
        keys, mask = self.keys, np.uint64(self._mask)
        slots: Slots = (names & mask).astype(np.intp)
        seen = keys[slots]
        todo = np.flatnonzero((seen != names) & (seen != 0))
        if todo.size:
            left, at = names[todo], slots[todo]
            steps = (((left >> np.uint64(_STEP_SHIFT)) | np.uint64(1)) & mask).astype(np.intp)
            while todo.size:
                at = (at + steps) & self._mask
                seen = keys[at]
                slots[todo] = at
                further = (seen != left) & (seen != 0)
                todo, left, at, steps = todo[further], left[further], at[further], steps[further]
        return slots

    def get(self, names: Names) -> tuple[Slots, Values]:
        """The slots, as :meth:`find` has them, and the values; 0 for names that aren't there."""
        slots = self.find(names)
        return slots, self.values[slots]  # Of an empty slot, the value is 0.

    def put(self, names: Names, slots: Slots, values: Values) -> None:
        """``slots`` are from :meth:`find`, with nothing put since."""
        keys = self.keys
        new = np.flatnonzero(keys[slots] == 0)
        while new.size:
            at, wanted = slots[new], names[new]
            keys[at] = wanted
            lost = keys[at] != wanted  # Two new names that want one slot.
            new = new[lost]
            self.used += len(wanted) - new.size
            slots[new] = self.find(names[new])
            new = new[keys[slots[new]] == 0]
        self.assign(slots, values)

    def assign(self, slots: Slots, values: Values) -> None:
        """To names that are there."""
        self.live += int(np.count_nonzero(values)) - int(np.count_nonzero(self.values[slots]))
        self.values[slots] = values

    # One name: an array of one costs twenty times as much.

    def find_one(self, name: int) -> int:
        slot = name & self._mask
        seen = self.keys.item(slot)
        if seen and seen != name:
            step = ((name >> _STEP_SHIFT) | 1) & self._mask
            while seen and seen != name:
                slot = (slot + step) & self._mask
                seen = self.keys.item(slot)
        return slot

    def put_one(self, name: int, slot: int, value: int) -> None:
        """``slot`` is from :meth:`find_one`, with nothing put since."""
        if not self.keys.item(slot):
            self.keys[slot] = name
            self.used += 1
        self.live += bool(value) - bool(self.values.item(slot))
        self.values[slot] = value
