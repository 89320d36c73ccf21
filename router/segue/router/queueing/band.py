"""Waiting requests that compete with each other, in the order in which they may start."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator

from segue.router.queueing.fair_share import FairShare
from segue.router.queueing.waiting import Waiting

# One line is a heap of (priority, due, number, request id).
_Key = tuple[int, float, int, str]
_Line = tuple[str, str, bool, int]

_GARBAGE = 64


class Band:
    """Lines by tenant, class and length (in powers of two, since there may be room for short ones alone); a line's head
    is its next one by priority, then by when it is due.

    Among the heads of the tenants whose turn it is, priority decides within a class and then who is due first; between
    classes the one that is promised a first token sooner goes first. With ``by_due`` neither priority nor class counts,
    only who is due first.

    Bands with one ``share`` have one account of what tenants got, whichever of them it came from.
    """

    def __init__(self, share: FairShare, *, by_due: bool = False) -> None:
        self._share = share
        self._by_due = by_due
        self._waiting: dict[str, tuple[Waiting, int]] = {}
        self._lines: dict[_Line, list[_Key]] = {}
        self._by_tenant: dict[str, set[_Line]] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._waiting

    def __getitem__(self, request_id: str) -> Waiting:
        return self._waiting[request_id][0]

    def __iter__(self) -> Iterator[Waiting]:
        return (waiting for waiting, _ in self._waiting.values())

    def add(self, waiting: Waiting, number: int) -> None:
        """``number`` grows with each request: of two that are equal otherwise the earlier one is first."""
        self._put(waiting, number)
        self._share.enter(waiting.tenant)

    def remove(self, request_id: str) -> Waiting:
        """It leaves the queue and gets nothing."""
        waiting, _ = self._take(request_id)
        self._share.leave(waiting.tenant)
        return waiting

    def start(self, request_id: str) -> Waiting:
        """It leaves the queue; what it gets counts in its tenant's share."""
        waiting, _ = self._waiting[request_id]
        self._share.charge(waiting.tenant, waiting.tokens, self._by_tenant)
        return self.remove(request_id)

    def move(self, request_id: str, other: Band) -> None:
        """It goes on waiting in another band of the same share."""
        other._put(*self._take(request_id))

    def head(self, may: Callable[[Waiting], bool]) -> Waiting | None:
        """Who is next of those that ``may`` start at all; None if nobody may.

        Tenants that are not in turn come behind those that are, as room that only they can use is for them.
        """
        in_turn = self._share.in_turn(self._by_tenant)
        found = self._first(in_turn, may)
        if found is None and len(in_turn) < len(self._by_tenant):
            behind = sorted(set(self._by_tenant) - set(in_turn), key=lambda tenant: (self._share.lead(tenant), tenant))
            found = next((head for tenant in behind if (head := self._first([tenant], may)) is not None), None)
        return found

    def _first(self, tenants: list[str], may: Callable[[Waiting], bool]) -> Waiting | None:
        by_class: dict[str, _Key] = {}
        for tenant in tenants:
            for line in self._by_tenant[tenant]:
                key = self._lines[line][0]
                best = by_class.get(line[1])
                if (best is None or key < best) and may(self._waiting[key[3]][0]):
                    by_class[line[1]] = key
        if not by_class:
            return None
        heads = [self._waiting[key[3]] for key in by_class.values()]
        return min(heads, key=lambda head: (self._class_order(head[0]), head[0].due_s, head[1]))[0]

    def _class_order(self, waiting: Waiting) -> float:
        return 0.0 if self._by_due else waiting.slo_class.ttft_s

    def _put(self, waiting: Waiting, number: int) -> None:
        line = _line_of(waiting)
        self._waiting[waiting.request_id] = waiting, number
        priority = 0 if self._by_due else waiting.priority
        heapq.heappush(self._lines.setdefault(line, []), (priority, waiting.due_s, number, waiting.request_id))
        self._by_tenant.setdefault(waiting.tenant, set()).add(line)

    def _take(self, request_id: str) -> tuple[Waiting, int]:
        """With its number."""
        waiting, number = self._waiting.pop(request_id)
        self._tidy(_line_of(waiting))
        return waiting, number

    def _tidy(self, line: _Line) -> None:
        """A line begins with one that waits. Who left from its middle stays in the heap until then."""
        heap = self._lines[line]
        if len(heap) > _GARBAGE and len(heap) > 2 * len(self._waiting):
            heap[:] = [key for key in heap if key[3] in self._waiting]
            heapq.heapify(heap)
        while heap and heap[0][3] not in self._waiting:
            heapq.heappop(heap)
        if not heap:
            del self._lines[line]
            lines = self._by_tenant[line[0]]
            lines.discard(line)
            if not lines:
                del self._by_tenant[line[0]]


def _line_of(waiting: Waiting) -> _Line:
    return waiting.tenant, waiting.slo_class.name, waiting.long, waiting.prompt_tokens.bit_length()
