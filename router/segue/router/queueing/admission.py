"""Whether the cluster should take one more request now. A pure function over the fleet.

A cluster that takes all it is offered answers nobody in time. So a request is admitted only if the wait ahead of it,
predicted from what is queued and from measured rates, is short; otherwise it is refused at once and told when to come
back. Three things can be short:

- prefill: the prompt tokens queued ahead, at the rate at which the worker was seen to compute them;
- places in decode's steps: each comes free when the answer that has it will probably be over;
- blocks of decode's KV cache: what the assigned requests will need beyond what there is, given back likewise.

Requests that wait in the router's own queue and would go first take what comes free first, on all workers of the pool.
The wait is the longest of the three. More load never makes it shorter, and without load it is zero: an idle cluster
refuses nobody. What a worker has and gives back is predicted in :mod:`segue.router.planning.prediction`, as for the
planner.

How long a request may wait is its class's promise less what its own prefill takes, and never more than ``max_queue_s``
or its own deadline. A prompt that takes most of the promised time by itself gets half as long again as that; else
nobody would ever answer it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from segue.proto.worker_pb2 import ROLE_DECODE, ROLE_PREFILL
from segue.router.planning.departures import wait_s
from segue.router.planning.prediction import (
    FIRST_PREFILL,
    blocks_asked,
    blocks_taken,
    decode_requests,
    free_blocks,
    free_places,
    prefill_line,
    queue_s,
    usual_output,
)
from segue.router.queueing.slo import DEFAULT_CLASSES, SloClass, SloClasses
from segue.router.queueing.waiting import DEFAULT_BOUNDS, NOTHING_AHEAD, Ahead, QueueBounds
from segue.router.rates.stays import FIRST_DECODE_TOKENS
from segue.router.workers.fleet import FleetSnapshot, WorkerView

_RETRY_MIN_S, _RETRY_MAX_S = 0.25, 60.0
_STRETCH = 1.5
# Predictions err; who is taken is to be in time nearly always.
_MARGIN = 0.8
# Of prefill's capacity, what is kept at most for those who will come and go first.
_MOST_PASSING = 0.75


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request wants, as far as it is known: before its prompt is tokenised, 0 tokens.

    ``output_tokens`` is the most it may get, 0 if that isn't known either. ``timeout_s`` is what is left of its
    deadline. ``slo_class`` is a class's name, empty for the default one; ``tenant`` whose share it counts in.
    """

    timeout_s: float
    prompt_tokens: int = 0
    output_tokens: int = 0
    n: int = 1
    slo_class: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not, and how long to wait before asking again."""

    reason: str
    retry_after_s: float


class Wait(NamedTuple):
    """The predicted wait of one more request, and for what."""

    seconds: float
    what: str


@dataclass(frozen=True, slots=True)
class Admission:
    """The policy: refuse whoever would wait longer than its class, ``max_queue_s`` or its own deadline allows.

    ``bounds`` are those of the queue in which the others wait.
    """

    max_queue_s: float = 5.0
    classes: SloClasses = DEFAULT_CLASSES
    bounds: QueueBounds = DEFAULT_BOUNDS

    def refusal(
        self,
        fleet: FleetSnapshot,
        demand: Demand,
        slo_class: SloClass,
        ahead: Ahead = NOTHING_AHEAD,
        *,
        on_decode: bool = False,
    ) -> Refusal | None:
        """None: take it. ``on_decode``: decode would compute the prompt, whatever waits for prefill."""
        wait = predicted_wait(fleet, demand, ahead, on_decode=on_decode)
        if not wait.seconds:  # Whatever the limit is, which takes a look at all workers.
            return None
        limit_s, bound = self._limit(fleet, demand, slo_class)
        if wait.seconds <= limit_s:
            return None
        # The queue shortens by a second a second. To come back when it is half empty leaves room for others who do.
        half_s = limit_s / 2 if slo_class.interactive else 0.0
        retry_after_s = min(_RETRY_MAX_S, max(_RETRY_MIN_S, wait.seconds - half_s))
        return Refusal(
            f"the cluster is busy: the wait for {wait.what} would be {wait.seconds:.1f} s and {bound} {limit_s:.3g} s; "
            f"try again in {retry_after_s:.1f} s",
            retry_after_s,
        )

    def _limit(self, fleet: FleetSnapshot, demand: Demand, slo_class: SloClass) -> tuple[float, str]:
        """The longest wait, and what bounds it."""
        limits = [(demand.timeout_s, "the request's deadline leaves")]
        if slo_class.interactive:
            own_s = prefill_s(fleet, demand.prompt_tokens)
            limits.append((max(0.0, _MARGIN * target_s(slo_class, own_s) - own_s), f"class {slo_class.name} leaves"))
            limits.append((self.max_queue_s, "--max-queue-s is"))
        return min(limits)


def target_s(slo_class: SloClass, own_s: float) -> float:
    """The TTFT that a request is held to, if its own prefill takes ``own_s``."""
    return max(slo_class.ttft_s, _STRETCH * own_s)


def prefill_s(fleet: FleetSnapshot, prompt_tokens: int) -> float:
    """How long the fastest worker would take for a prompt, with nothing else to do."""
    seconds = [prefill_line(worker)(prompt_tokens) for worker in fleet.usable(ROLE_PREFILL)]
    return min(seconds) if seconds else FIRST_PREFILL(prompt_tokens)


def predicted_wait(
    fleet: FleetSnapshot, demand: Demand, ahead: Ahead = NOTHING_AHEAD, *, on_decode: bool = False
) -> Wait:
    """How long this request would be held up by others. 0 where a pool is empty: whoever plans says so better."""
    prefill, decode = fleet.believed(ROLE_PREFILL), fleet.believed(ROLE_DECODE)
    wait = Wait(0.0 if on_decode else _prefill_wait_s(prefill, ahead, fleet.now_s), "prefill")
    if not decode or _takes_anything(decode, ahead):
        return wait
    places = Wait(_places_wait_s(decode, demand, ahead, fleet.now_s), "a place in decode")
    blocks = Wait(_blocks_wait_s(decode, demand, ahead, fleet.now_s), "KV cache blocks in decode")
    return max((wait, places, blocks), key=lambda one: one.seconds)


def expected_output(decode: Sequence[WorkerView], demand: Demand) -> int:
    """How many tokens the answers will probably have."""
    most = max((usual_output(worker, demand.output_tokens) for worker in decode), default=FIRST_DECODE_TOKENS)
    return int(demand.n * most)


def _prefill_wait_s(prefill: Sequence[WorkerView], ahead: Ahead, now_s: float) -> float:
    """What is ahead in the queue, a prompt of the mean length at a time, poured over the workers; longer by what will
    come meanwhile and pass (the mean wait under priorities, Cobham 1954)."""
    if not prefill:
        return 0.0
    mean_tokens = max(1.0, ahead.prompt_tokens / max(1, ahead.requests))
    queues = []
    for worker in prefill:
        ready_s = queue_s(worker, now_s)
        if not (ready_s or ahead.requests):  # Looked no further than needed.
            return 0.0
        queues.append((ready_s, 1 / prefill_line(worker)(mean_tokens)))
    wait_s = _level(queues, ahead.requests)
    if not ahead.passing_per_s:
        return wait_s
    passing = sum(1 / prefill_line(worker)(ahead.passing_tokens or 1.0) for worker in prefill)
    return wait_s / (1 - min(_MOST_PASSING, ahead.passing_per_s / passing))


def _places_wait_s(decode: Sequence[WorkerView], demand: Demand, ahead: Ahead, now_s: float) -> float:
    wanted = ahead.requests + demand.n
    if sum(_places_now(worker) for worker in decode) >= wanted:  # Nobody has to leave first.
        return 0.0
    return wait_s((free_places(worker, now_s) for worker in decode), wanted)


def _takes_anything(decode: Sequence[WorkerView], ahead: Ahead) -> bool:
    """A worker that has nothing takes a request whatever that needs."""
    return not ahead.requests and not all(worker.assigned_requests for worker in decode)


def _blocks_wait_s(decode: Sequence[WorkerView], demand: Demand, ahead: Ahead, now_s: float) -> float:
    asked = min(blocks_asked(worker, demand.prompt_tokens, demand.output_tokens) for worker in decode)
    wanted = ahead.blocks + demand.n * asked
    if sum(_blocks_now(worker) for worker in decode) >= wanted:
        return 0.0
    return wait_s((free_blocks(worker, now_s) for worker in decode), wanted)


def _places_now(worker: WorkerView) -> float:
    """What :func:`free_places` has at once."""
    capacity = worker.max_running_requests
    return max(0, capacity - decode_requests(worker)) if capacity else math.inf


def _blocks_now(worker: WorkerView) -> float:
    """What :func:`free_blocks` has at once."""
    capacity = worker.kv_blocks
    return max(0.0, capacity - blocks_taken(worker)) if capacity and worker.block_tokens else math.inf


def _level(queues: Iterable[tuple[float, float]], work: float) -> float:
    """When the last of ``work`` begins, poured over workers that are free in so many seconds and do so much in one."""
    known = sorted(queues)
    level, rate = known[0][0], 0.0
    for ready_s, own_rate in known:
        room = (ready_s - level) * rate
        if rate and room >= work:
            break
        level, work, rate = ready_s, work - room, rate + own_rate
    return level + work / rate
