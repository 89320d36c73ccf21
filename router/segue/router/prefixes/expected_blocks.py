"""Prompts that are on their way into prefix caches: a second one like them should follow them, not start elsewhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

Names = Sequence[int] | NDArray[np.uint64]

# Prompts with one beginning (a system prompt that all share) that are compared with a new one, the newest first.
_COMPARED = 64


class ExpectedBlocks:
    """From when a prompt is sent until its worker has told of its blocks, or won't. In the memory of those prompts."""

    def __init__(self) -> None:
        self._by_beginning: dict[int, OrderedDict[str, tuple[Names, Collection[str]]]] = {}
        self._beginnings: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._beginnings)

    def add(self, run_id: str, names: Names, workers: Collection[str]) -> None:
        self.discard(run_id)
        if len(names):
            beginning = self._beginnings[run_id] = int(names[0])
            self._by_beginning.setdefault(beginning, OrderedDict())[run_id] = names, workers

    def discard(self, run_id: str) -> None:
        beginning = self._beginnings.pop(run_id, None)
        if beginning is not None:
            alike = self._by_beginning[beginning]
            del alike[run_id]
            if not alike:
                del self._by_beginning[beginning]

    def overlaps(self, names: Names) -> dict[str, int]:
        """How many of a prompt's first blocks each worker should soon have."""
        found: dict[str, int] = {}
        alike = self._by_beginning.get(int(names[0])) if len(names) else None
        if alike is not None:
            for theirs, workers in islice(reversed(alike.values()), _COMPARED):
                blocks = _common(names, theirs)
                for worker in workers:
                    found[worker] = max(found.get(worker, 0), blocks)
        return found


def _common(ours: Names, theirs: Names) -> int:
    """How many blocks two prompts share. A name stands for all before it, so halving finds it."""
    low, high = 1, min(len(ours), len(theirs))
    while low < high:
        middle = (low + high + 1) // 2
        if ours[middle - 1] == theirs[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
