"""Prompts that are on their way into prefix caches: a second one like them should follow them, not start elsewhere."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Sequence
from itertools import islice

# Prompts with one beginning (a system prompt that all share) that are compared with a new one, the newest first.
_COMPARED = 64


class ExpectedBlocks:
    """From when a prompt is sent until its worker has told of its blocks, or won't. In the memory of those prompts."""

    def __init__(self) -> None:
        self._by_beginning: dict[int, OrderedDict[str, tuple[Sequence[int], Collection[str]]]] = {}
        self._beginnings: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._beginnings)

    def add(self, run_id: str, names: Sequence[int], workers: Collection[str]) -> None:
        self.discard(run_id)
        if names:
            self._beginnings[run_id] = names[0]
            self._by_beginning.setdefault(names[0], OrderedDict())[run_id] = names, workers

    def discard(self, run_id: str) -> None:
        beginning = self._beginnings.pop(run_id, None)
        if beginning is not None:
            alike = self._by_beginning[beginning]
            del alike[run_id]
            if not alike:
                del self._by_beginning[beginning]

    def overlaps(self, names: Sequence[int]) -> dict[str, int]:
        """How many of a prompt's first blocks each worker should soon have."""
        found: dict[str, int] = {}
        alike = self._by_beginning.get(names[0]) if names else None
        if alike is not None:
            for theirs, workers in islice(reversed(alike.values()), _COMPARED):
                blocks = _common(names, theirs)
                for worker in workers:
                    found[worker] = max(found.get(worker, 0), blocks)
        return found


def _common(ours: Sequence[int], theirs: Sequence[int]) -> int:
    """How many blocks two prompts share. A name stands for all before it, so halving finds it."""
    low, high = 1, min(len(ours), len(theirs))
    while low < high:
        middle = (low + high + 1) // 2
        if ours[middle - 1] == theirs[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low
