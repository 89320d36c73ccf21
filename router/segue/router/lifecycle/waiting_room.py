"""Where requests wait for a worker: the queue, told of time and of room, on the event loop."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from segue.base.errors import Overloaded, Unavailable
from segue.proto.worker_pb2 import ROLE_DECODE
from segue.router.lifecycle.request import Request
from segue.router.planning.planner import plan
from segue.router.planning.prediction import Ask, blocks_asked
from segue.router.queueing.admission import Admission, Demand, expected_output, prefill_s, target_s
from segue.router.queueing.arrivals import ArrivalMeter
from segue.router.queueing.queue import AdmissionQueue
from segue.router.queueing.room import LongWork, room, rooms
from segue.router.queueing.slo import SloClass
from segue.router.queueing.terms import MAX_PRIORITY
from segue.router.queueing.waiting import NOTHING_AHEAD, Ahead, Waiting
from segue.router.service import Generation
from segue.router.workers.fleet import FleetSnapshot
from segue.router.workers.links import WorkerLinks

# Workers' loads change between the events that we are told of.
_LOOK_S = 0.05
# A prompt that takes more than this part of the shortest promise would make others miss it that come right behind.
_LONG_PART = 0.75
_RETRY_S = 1.0
# So many requests, and within so long a time, hardly change what workers have ahead of them.
_ALIKE, _MOMENT_S = 16, 0.05
_REMEMBERED = 64
_UNLIMITED, _LEAST_S = 1 << 16, 1e-3
_SHORT = "(short)"  # Of all interactive classes; no class's name.

Start = Callable[[Request, FleetSnapshot], None]


class WaitingRoom:
    """Every request passes through it; with room on the workers, without a wait.

    ``start`` is called on the event loop with each request whose turn it is, and the fleet as it then is.
    ``patience_s`` is how long requests wait for a decode worker when there is none at all. ``on_decode`` says whether a
    prompt of so many tokens would be computed there.
    """

    def __init__(
        self,
        links: WorkerLinks,
        admission: Admission,
        start: Start,
        patience_s: float,
        on_decode: Callable[[FleetSnapshot, int], bool] = lambda fleet, prompt_tokens: False,
    ) -> None:
        self._links = links
        self._admission = admission
        # By class and about how much time: until when, and how many more.
        self._let_past: dict[tuple[str, int], tuple[float, int]] = {}
        self._start = start
        self._patience_s = patience_s
        self._on_decode = on_decode
        self._queue = AdmissionQueue(admission.bounds)
        promises_s = (one.ttft_s for one in admission.classes if one.interactive)
        self._long_s = _LONG_PART * min(promises_s, default=math.inf)
        self._arrivals = ArrivalMeter()
        self._requests: dict[str, Request] = {}
        self._long: dict[str, int] = {}  # Prompt tokens by the id of the answer that is being prefilled.
        self._deserted_s: float | None = None
        self._look: asyncio.Handle | None = None
        self._soon = False

    def __len__(self) -> int:
        return len(self._queue)

    def queued(self, slo_class: str) -> int:
        """How many of a class wait."""
        return self._queue.queued(slo_class)

    @property
    def queued_tokens(self) -> int:
        """Prompt tokens of all that wait."""
        return self._queue.queued_tokens

    def check(self, demand: Demand, fleet: FleetSnapshot) -> None:
        """Raises Overloaded: this request may not wait, or would wait too long."""
        slo_class, now_s = self._class_of(demand), time.monotonic()
        self._arrivals.tokenised(slo_class.name, demand.prompt_tokens)
        self._require_room(demand, slo_class, fleet, now_s)

    def check_untokenised(self, demand: Demand) -> None:
        """The same before it is known how long the prompt is, so that refusing many costs little.

        Where nobody waits and one like it could have come in a moment ago, so can this one: should that be wrong,
        :meth:`check` says so.
        """
        slo_class, now_s = self._class_of(demand), time.monotonic()
        self._arrivals.asked(slo_class.name, now_s)
        alike = (slo_class.name, self._about(slo_class, demand.timeout_s))
        until_s, more = self._let_past.pop(alike, (0.0, 0))
        if len(self._queue) or not more or now_s > until_s:
            self._require_room(demand, slo_class, self._links.snapshot(), now_s)
            until_s, more = now_s + _MOMENT_S, _ALIKE
            if len(self._let_past) >= _REMEMBERED:
                self._let_past.clear()
        self._let_past[alike] = until_s, more - 1

    def _about(self, slo_class: SloClass, timeout_s: float) -> int:
        """A number for time limits that refuse nearly the same: what is left of a deadline is never twice the same.

        Within a number they differ by less than a fifth; an interactive request that may take longer than anybody is
        let wait is as one without a limit.
        """
        if slo_class.interactive and timeout_s >= self._admission.max_queue_s:
            return _UNLIMITED
        return math.floor(4 * math.log2(max(timeout_s, _LEAST_S)))

    def _require_room(self, demand: Demand, slo_class: SloClass, fleet: FleetSnapshot, now_s: float) -> None:
        ahead = self._ahead(slo_class, demand, fleet, now_s)
        refusal = self._admission.refusal(fleet, demand, slo_class, ahead)
        if refusal is not None and slo_class.interactive and self._on_decode(fleet, demand.prompt_tokens):
            refusal = self._admission.refusal(fleet, demand, slo_class, ahead, on_decode=True)
        if refusal is not None:
            raise Overloaded(refusal.reason, retry_after_s=refusal.retry_after_s)
        if (full := self._queue.full(slo_class.name, demand.tenant, demand.prompt_tokens)) is not None:
            raise Overloaded(f"the queue is full: {full}; try again in a second", retry_after_s=_RETRY_S)

    def enter(self, request: Request, demand: Demand, fleet: FleetSnapshot) -> None:
        """Wait for a turn; perhaps it is now."""
        waiting = self._waiting(request, demand, fleet)
        on_decode = partial(self._on_decode, fleet)
        free = room(fleet, self._long_work(fleet.now_s), on_decode, interactive=waiting.slo_class.interactive)
        if self._queue.passes(waiting, time.monotonic(), free):
            self._turn(request, waiting, fleet)
            return
        self._requests[request.request_id] = request
        self._queue.offer(waiting)
        self._let_in(fleet)

    def leave(self, request_id: str) -> None:
        """Its request is over, whether it waited or not."""
        if self._requests.pop(request_id, None) is not None:
            self._queue.cancel(request_id)
        self.look_soon()

    def computed(self, run_id: str) -> None:
        """An answer's prompt is computed, or need not be."""
        self._long.pop(run_id, None)
        self.look_soon()

    def look_soon(self) -> None:
        """Something has changed that may have made room."""
        if self._queue and not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_soon(self._let_in)

    def engine_priority(self, generation: Generation) -> int:
        """As engines take it that schedule by priority: lower is sooner. Batch comes behind everything else."""
        interactive = self._admission.classes.find(generation.slo_class).interactive
        return generation.priority if interactive else generation.priority + 2 * MAX_PRIORITY

    def _ahead(self, slo_class: SloClass, demand: Demand, fleet: FleetSnapshot, now_s: float) -> Ahead:
        rate, tokens = self._arrivals.passing(slo_class, self._admission.classes, now_s)
        if not len(self._queue):
            return Ahead(passing_per_s=rate, passing_tokens=tokens) if rate else NOTHING_AHEAD
        due_s = now_s + target_s(slo_class, prefill_s(fleet, demand.prompt_tokens))
        return replace(self._queue.ahead(slo_class, due_s), passing_per_s=rate, passing_tokens=tokens)

    def _class_of(self, demand: Demand) -> SloClass:
        return self._admission.classes.find(demand.slo_class)

    def _waiting(self, request: Request, demand: Demand, fleet: FleetSnapshot) -> Waiting:
        generation, slo_class = request.generation, self._class_of(demand)
        decode = fleet.usable(ROLE_DECODE)
        asked = (blocks_asked(one, demand.prompt_tokens, demand.output_tokens) for one in decode)
        own_s = prefill_s(fleet, demand.prompt_tokens)
        long = own_s > self._long_s
        if slo_class.interactive and not long:
            self._arrivals.asked(_SHORT, request.accepted_s)
            self._arrivals.tokenised(_SHORT, demand.prompt_tokens)
        promise_s = target_s(slo_class, own_s) if slo_class.interactive else slo_class.yield_s
        return Waiting(
            request_id=request.request_id,
            slo_class=slo_class,
            tenant=generation.tenant,
            priority=generation.priority,
            prompt_tokens=demand.prompt_tokens,
            tokens=demand.prompt_tokens + expected_output(decode, demand),
            n=demand.n,
            blocks=demand.n * min(asked, default=0.0),
            long=long,
            due_s=request.accepted_s + promise_s,
            start_by_s=request.accepted_s + promise_s - own_s,
        )

    def _let_in(self, fleet: FleetSnapshot | None = None) -> None:
        """Start all whose turn it is. ``fleet`` is as it is now, if it is known."""
        self._soon = False
        while self._queue:
            fleet = fleet or self._links.snapshot()
            now_s = time.monotonic()
            found = rooms(fleet, self._long_work(fleet.now_s), partial(self._on_decode, fleet))
            waiting = self._queue.next(now_s, found)
            if waiting is None:
                self._desert(fleet, now_s)
                break
            self._turn(self._requests.pop(waiting.request_id), waiting, fleet)
            fleet = None
        self._look_later()

    def _turn(self, request: Request, waiting: Waiting, fleet: FleetSnapshot) -> None:
        self._deserted_s = None  # Some decode worker takes it.
        if waiting.long:
            self._long |= {request.run_id(index): waiting.prompt_tokens for index in range(waiting.n)}
        self._start(request, fleet)

    def _long_work(self, now_s: float) -> LongWork:
        rate, tokens = self._arrivals.rate(_SHORT, now_s)
        return LongWork(len(self._long), sum(self._long.values()), rate, tokens)

    def _desert(self, fleet: FleetSnapshot, now_s: float) -> None:
        """End those who wait for a pool that has had no worker for too long."""
        if fleet.ready(ROLE_DECODE):
            self._deserted_s = None
            return
        self._deserted_s = self._deserted_s or now_s
        if now_s - self._deserted_s < self._patience_s:
            return
        try:
            require_decode(fleet)
        except Unavailable as none:
            for request in list(self._requests.values()):
                request.fail(Unavailable(f"after {now_s - request.accepted_s:.1f} s in the queue {none}"))

    def _look_later(self) -> None:
        if self._look is not None:
            self._look.cancel()
        self._look = asyncio.get_running_loop().call_later(_LOOK_S, self._let_in) if self._queue else None


def require_decode(fleet: FleetSnapshot) -> None:
    """Raises Unavailable where no decode worker is ready, with what there is."""
    if not fleet.ready(ROLE_DECODE):
        plan(fleet, Ask())
