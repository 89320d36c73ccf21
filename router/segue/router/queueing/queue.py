"""The queue in front of the workers, as a state machine: requests and room in, who starts out. Clock passed in.

Who is next:

1. Interactive requests that can still be in time. Tenants take turns by what they got (:mod:`fair_share`); within that
   the class with the shorter TTFT goes first, in one class who has the lower priority number, then whose first token is
   due first.
2. Interactive ones that are too late, by turn and then in the order in which they were due. They would otherwise, being
   due first, make everybody behind them late too. What tenants get late counts in their turns as well.
3. Batch, likewise by turn, priority and age.

A long prompt takes only room that is kept for long ones, and short ones pass it. So that nobody starves, one start in
``OTHERS_TURN`` goes to the first late request, or else to the batch request that has yielded longest beyond its class's
``yield_s``, even while others wait who could be in time.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable
from itertools import islice

from segue.router.queueing.band import Band
from segue.router.queueing.fair_share import FairShare
from segue.router.queueing.slo import SloClass
from segue.router.queueing.waiting import DEFAULT_BOUNDS, Ahead, QueueBounds, Room, Rooms, Waiting

# A class, and one tenant in it or all (None).
_Group = tuple[str, str | None]

OTHERS_TURN = 8
_SLACK_TOKENS = 8192
_GARBAGE = 64


class AdmissionQueue:
    """Nobody is in it twice, and who leaves it doesn't come back."""

    def __init__(self, bounds: QueueBounds = DEFAULT_BOUNDS) -> None:
        self._bounds = bounds
        interactive = FairShare(bounds.weights, _SLACK_TOKENS)
        self._in_time = Band(interactive)
        self._late = Band(interactive, by_due=True)
        self._batch = Band(FairShare(bounds.weights, _SLACK_TOKENS))
        self._bands = (self._in_time, self._late, self._batch)
        self._in_time_ends: list[tuple[float, str]] = []  # Heaps; who has left is dropped when it comes up.
        self._batch_ends: list[tuple[float, str]] = []
        self._requests: Counter[_Group] = Counter()
        self._tokens: Counter[_Group] = Counter()
        self._size = 0
        self._number = 0
        self._since_other = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, request_id: str) -> bool:
        return any(request_id in band for band in self._bands)

    def queued(self, slo_class: str) -> int:
        """How many of this class wait."""
        return self._requests[slo_class, None]

    @property
    def queued_tokens(self) -> int:
        """Of all prompts that wait."""
        return sum(tokens for (_, tenant), tokens in self._tokens.items() if tenant is None)

    def full(self, slo_class: str, tenant: str, prompt_tokens: int) -> str | None:
        """Why no more of this may wait, with the bound; None if there is room to."""
        bounds = self._bounds
        groups: list[tuple[_Group, str, float]] = [((slo_class, None), f"of class {slo_class}", 1.0)]
        if tenant:
            own = f"of {tenant} in class {slo_class}"
            groups.append(((slo_class, tenant), own, bounds.tenant_fraction))
        for group, whose, fraction in groups:
            requests, tokens = self._requests[group], self._tokens[group]
            most, most_tokens = int(fraction * bounds.requests), int(fraction * bounds.tokens)
            if requests >= max(1, most):
                return f"{requests} requests {whose} wait, and no more than {most} may"
            # One request alone may wait however long its prompt is.
            if requests and tokens + prompt_tokens > most_tokens:
                return f"{tokens} prompt tokens {whose} wait, and no more than {most_tokens} may"
        return None

    def ahead(self, slo_class: SloClass, due_s: float) -> Ahead:
        """What a request of this class that is due then would have before it; batch has all.

        Of those that are late already only as many as get their turn meanwhile.
        """
        before: Iterable[Waiting] = [*self._late, *self._in_time, *self._batch]
        if slo_class.interactive:
            in_time = [one for one in self._in_time if _goes_before(one, slo_class, due_s)]
            turns = (self._since_other + len(in_time) + 1) // OTHERS_TURN
            before = [*in_time, *islice(self._late, turns)]
        requests, tokens, blocks = 0, 0, 0.0
        for one in before:
            requests, tokens, blocks = requests + one.n, tokens + one.prompt_tokens, blocks + one.blocks
        return Ahead(requests, tokens, blocks)

    def passes(self, waiting: Waiting, now_s: float, room: Room) -> bool:
        """Whether a request that comes now starts now, since nobody waits and there is room for such. It is as if it
        had been offered and been next."""
        if self._size or not room.takes(waiting):
            return False
        if not waiting.slo_class.interactive or waiting.start_by_s < now_s:
            self._since_other = 0
        return True

    def offer(self, waiting: Waiting) -> None:
        """Wait from now on. The caller has asked :meth:`full`."""
        self._number += 1
        if waiting.slo_class.interactive:
            self._in_time.add(waiting, self._number)
            heapq.heappush(self._in_time_ends, (waiting.start_by_s, waiting.request_id))
        else:
            self._batch.add(waiting, self._number)
            heapq.heappush(self._batch_ends, (waiting.due_s, waiting.request_id))
        self._count(waiting, 1)

    def cancel(self, request_id: str) -> bool:
        """Leave at once; False if it doesn't wait."""
        for band in self._bands:
            if request_id in band:
                self._count(band.remove(request_id), -1)
                self._tidy()
                return True
        return False

    def next(self, now_s: float, rooms: Rooms) -> Waiting | None:
        """Who starts now, if anybody does. To be asked again, with the room that is left, until nobody does."""
        self._sort_out(now_s)
        in_time = self._in_time.head(rooms.interactive.takes_length)
        late = self._late.head(rooms.interactive.takes_length)
        aged = None if late is not None else self._aged(now_s, rooms.batch)
        if in_time is None or self._since_other >= OTHERS_TURN - 1:
            if late is not None:
                return self._start(self._late, late, rooms.interactive)
            if aged is not None and rooms.batch.takes(aged):
                return self._start(self._batch, aged, rooms.batch)
        if in_time is not None:
            started = self._start(self._in_time, in_time, rooms.interactive)
            if started is not None and (late is not None or aged is not None):
                self._since_other += 1
            return started
        batch = aged or self._batch.head(rooms.batch.takes_length)
        return None if batch is None else self._start(self._batch, batch, rooms.batch)

    def _aged(self, now_s: float, room: Room) -> Waiting | None:
        """The batch request that has yielded too long by the most."""
        ends = self._batch_ends
        while ends and ends[0][1] not in self._batch:
            heapq.heappop(ends)
        if not ends or ends[0][0] > now_s:
            return None
        oldest = self._batch[ends[0][1]]
        return oldest if room.takes_length(oldest) else None

    def _sort_out(self, now_s: float) -> None:
        """Move those that can't be in time any more to the late ones."""
        ends = self._in_time_ends
        while ends and (ends[0][0] < now_s or ends[0][1] not in self._in_time):
            _, request_id = heapq.heappop(ends)
            if request_id in self._in_time:
                self._in_time.move(request_id, self._late)

    def _tidy(self) -> None:
        """Who was cancelled leaves the heaps, too, before they are more than those that wait."""
        for ends, band in ((self._in_time_ends, self._in_time), (self._batch_ends, self._batch)):
            if len(ends) > _GARBAGE and len(ends) > 2 * len(band):
                ends[:] = [end for end in ends if end[1] in band]
                heapq.heapify(ends)

    def _start(self, band: Band, waiting: Waiting, room: Room) -> Waiting | None:
        """None where it has to wait for places or blocks, and all behind it with it: passing over whoever is first
        would starve the large ones."""
        if not room.takes(waiting):
            return None
        if band is not self._in_time:
            self._since_other = 0
        band.start(waiting.request_id)
        self._count(waiting, -1)
        return waiting

    def _count(self, waiting: Waiting, sign: int) -> None:
        self._size += sign
        name = waiting.slo_class.name
        groups: tuple[_Group, ...] = ((name, None), (name, waiting.tenant))
        for group in groups:
            self._requests[group] += sign
            self._tokens[group] += sign * waiting.prompt_tokens
            if not self._requests[group]:
                del self._requests[group], self._tokens[group]


def _goes_before(waiting: Waiting, slo_class: SloClass, due_s: float) -> bool:
    """As far as time decides: priorities and shares may turn it round."""
    own_s, other_s = slo_class.ttft_s, waiting.slo_class.ttft_s
    return other_s < own_s or (other_s == own_s and waiting.due_s <= due_s)
