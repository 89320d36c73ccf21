"""The KV events that one router is still to be sent: numbered, in pieces of a bounded size."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from segue.proto.worker_pb2 import KvEvent, KvEvents

# 64 KiB of names: a frame that also carries tokens must not wait behind megabytes.
MOST_BLOCKS_A_FRAME = 8192


class KvFeed:
    """Begins with a snapshot, then tells what changed. ``snapshot`` gives the cache as it is now.

    A router that reads so slowly that more waits for it than the cache holds gets a new snapshot instead: what waits
    is bounded by twice the cache.
    """

    def __init__(self, snapshot: Callable[[], Sequence[KvEvent]]) -> None:
        self._snapshot = snapshot
        self._sequence = 0
        self._waiting: deque[KvEvent] = deque()
        self._waiting_blocks = 0
        self._most_waiting = 0
        self._begins = False

    @property
    def empty(self) -> bool:
        return not (self._waiting or self._begins)

    def restart(self) -> None:
        """Send the whole cache, in place of whatever waits."""
        self._waiting.clear()
        self._waiting_blocks = 0
        self._begins = True
        self._add(self._snapshot())
        self._most_waiting = 2 * self._waiting_blocks + MOST_BLOCKS_A_FRAME

    def put(self, events: Iterable[KvEvent]) -> None:
        """What has just changed; the cache is already as it is after that."""
        self._add(events)
        if self._waiting_blocks > self._most_waiting:
            self.restart()

    def take(self) -> KvEvents:
        """The next piece: one event at least, and no more blocks than a frame should have unless that one has."""
        piece = KvEvents(first_sequence=self._sequence, snapshot=self._begins)
        self._begins = False
        blocks = 0
        while self._waiting:
            size = _blocks(self._waiting[0])
            if piece.events and blocks + size > MOST_BLOCKS_A_FRAME:
                break
            piece.events.append(self._waiting.popleft())
            blocks += size
        self._waiting_blocks -= blocks
        self._sequence += len(piece.events)
        return piece

    def _add(self, events: Iterable[KvEvent]) -> None:
        for event in events:
            self._waiting.append(event)
            self._waiting_blocks += _blocks(event)


def _blocks(event: KvEvent) -> int:
    return len(event.stored.blocks) + len(event.removed.blocks) + 1
