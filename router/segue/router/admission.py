"""Whether the cluster should take one more request now. A pure function over the fleet.

A cluster that takes all it is offered answers nobody in time. So a request is admitted only if the wait ahead of it,
predicted from what is queued and from measured rates, is short; otherwise it is refused at once and told when to come
back. Three things can be short, and each is predicted alike, as what is taken beyond the capacity over the rate at
which it is given back:

- prefill: the prompt tokens queued ahead, at the rate at which the worker was seen to compute them;
- places in decode's steps: requests assigned beyond ``max_running_requests``, of which each place is given back once in
  the time that a request was seen to stay;
- blocks of decode's KV cache: what the assigned requests will need beyond what there is, given back likewise.

Requests that wait in the router's own queue and would go first count as work ahead, poured over all workers of the pool
so that they end alike. The wait is the longest of the three. More load never makes it shorter, and without load it is
zero: an idle cluster refuses nobody.

How long a request may wait is its class's promise less what its own prefill takes, and never more than ``max_queue_s``
or its own deadline. A prompt that takes most of the promised time by itself gets half as long again as that; else
nobody would ever answer it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segue.proto.worker_pb2 import Role
from segue.router.fleet import FleetSnapshot, WorkerView
from segue.router.lines import Line
from segue.router.prediction import FIRST_DECODE_S, FIRST_DECODE_TOKENS, FIRST_PREFILL
from segue.router.queueing.waiting import DEFAULT_BOUNDS, NOTHING_AHEAD, Ahead, QueueBounds
from segue.router.slo import DEFAULT_CLASSES, SloClass, SloClasses

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


@dataclass(frozen=True, slots=True)
class Wait:
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
        self, fleet: FleetSnapshot, demand: Demand, slo_class: SloClass, ahead: Ahead = NOTHING_AHEAD
    ) -> Refusal | None:
        """None: take it."""
        wait = predicted_wait(fleet, demand, ahead)
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
    workers = usable(fleet.ready(Role.ROLE_PREFILL))
    return min((prefill_line(worker)(prompt_tokens) for worker in workers), default=FIRST_PREFILL(prompt_tokens))


def predicted_wait(fleet: FleetSnapshot, demand: Demand, ahead: Ahead = NOTHING_AHEAD) -> Wait:
    """How long this request would be held up by others. 0 where a pool is empty: whoever plans says so better."""
    prefill, decode = usable(fleet.ready(Role.ROLE_PREFILL)), usable(fleet.ready(Role.ROLE_DECODE))
    return max(
        (
            Wait(_prefill_wait_s(prefill, ahead, fleet.now_s), "prefill"),
            Wait(_places_wait_s(decode, demand, ahead), "a place in decode"),
            Wait(_blocks_wait_s(decode, demand, ahead), "KV cache blocks in decode"),
        ),
        key=lambda wait: wait.seconds,
    )


def usable(ready: Sequence[WorkerView]) -> Sequence[WorkerView]:
    """Without those whose breakers are open, which stand idle because the planner spares them."""
    return [worker for worker in ready if not worker.spared] or ready


def queued_tokens(worker: WorkerView) -> int:
    """Prompt tokens ahead of a prefill worker. What we sent is known at once; what the worker says is older but covers
    what other routers sent.

    None where nothing of ours is under way. An engine that does nothing reports nothing new: what it said last may be
    of a load that is gone, and whoever refuses by it would never learn better. One request finds out.
    """
    assigned = worker.assigned_prefill_tokens or worker.assigned_tokens  # Without what it has cached, if that is known.
    return max(assigned, worker.load.waiting_tokens) if worker.assigned_requests else 0


def prefill_line(worker: WorkerView) -> Line:
    """How long it takes for a prompt, by its tokens."""
    rates = worker.rates
    if rates.prefill:
        return rates.prefill
    return Line(0.0, 1 / rates.prefill_tokens_per_s) if rates.prefill_tokens_per_s else FIRST_PREFILL


def queue_s(worker: WorkerView, now_s: float) -> float:
    """How long a prefill worker will take for what is ahead of it. Of the first request a part is done."""
    line, tokens = prefill_line(worker), queued_tokens(worker)
    if not tokens:
        return 0.0
    whole_s = line.fixed_s * worker.assigned_requests + line.each_s * tokens
    done_s = max(0.0, now_s - worker.busy_since_s) if worker.busy_since_s else 0.0
    return whole_s - min(done_s, 0.9 * whole_s / worker.assigned_requests)


def decode_requests(worker: WorkerView) -> int:
    """What a decode worker has; none, likewise, where nothing of ours is under way."""
    if not worker.assigned_requests:
        return 0
    return max(worker.assigned_requests, worker.load.running_requests + worker.load.waiting_requests)


def blocks_taken(worker: WorkerView) -> float:
    """Of a decode worker's KV cache, what its requests will have written by their end. Few reach the most they may:
    their mean counts."""
    if not worker.assigned_requests:
        return 0.0
    requests, block_tokens = decode_requests(worker), worker.facts.layout.block_tokens
    needed = requests + (worker.assigned_tokens + requests * _mean_output(worker)) / block_tokens
    return max(needed, worker.facts.kv_blocks - worker.load.free_blocks)


def blocks_asked(worker: WorkerView, demand: Demand) -> float:
    """What a request will need of a decode worker's KV cache."""
    mean_output = _mean_output(worker)
    output = min(demand.output_tokens, mean_output) if demand.output_tokens else mean_output
    return demand.n * (1 + (demand.prompt_tokens + output) / worker.facts.layout.block_tokens)


def expected_output(decode: Sequence[WorkerView], demand: Demand) -> int:
    """How many tokens the answers will probably have."""
    mean = max(map(_mean_output, decode), default=FIRST_DECODE_TOKENS)
    return int(demand.n * (min(demand.output_tokens, mean) if demand.output_tokens else mean))


def _mean_output(worker: WorkerView) -> float:
    return worker.rates.decode_tokens or FIRST_DECODE_TOKENS


def _prefill_wait_s(prefill: Sequence[WorkerView], ahead: Ahead, now_s: float) -> float:
    """What is ahead in the queue, a prompt of the mean length at a time, poured over the workers; longer by what will
    come meanwhile and pass (the mean wait under priorities, Cobham 1954)."""
    if not prefill:
        return 0.0
    mean_tokens = ahead.prompt_tokens / ahead.requests if ahead.requests else 1.0
    queues = [(queue_s(worker, now_s), 1 / prefill_line(worker)(mean_tokens)) for worker in prefill]
    wait_s = _level(queues, ahead.requests)
    passing = sum(1 / prefill_line(worker)(ahead.passing_tokens or 1.0) for worker in prefill)
    return wait_s / (1 - min(_MOST_PASSING, ahead.passing_per_s / passing))


def _places_wait_s(decode: Sequence[WorkerView], demand: Demand, ahead: Ahead) -> float:
    if _takes_anything(decode, ahead):
        return 0.0
    return _level([_places_queue(worker) for worker in decode], ahead.requests + demand.n)


def _takes_anything(decode: Sequence[WorkerView], ahead: Ahead) -> bool:
    """A worker that has nothing takes a request whatever that needs."""
    return not ahead.requests and not all(worker.assigned_requests for worker in decode)


def _places_queue(worker: WorkerView) -> tuple[float, float] | None:
    """All places are given back once in the time that a request stays."""
    capacity = worker.facts.max_running_requests
    if not capacity:
        return None
    rate = capacity / (worker.rates.decode_s or FIRST_DECODE_S)
    return (decode_requests(worker) - capacity) / rate, rate


def _blocks_wait_s(decode: Sequence[WorkerView], demand: Demand, ahead: Ahead) -> float:
    known = [worker for worker in decode if worker.facts.kv_blocks and worker.facts.layout.block_tokens]
    if len(known) < len(decode) or not known or _takes_anything(known, ahead):
        return 0.0
    return _level(
        [_blocks_queue(worker) for worker in known],
        ahead.blocks + min(blocks_asked(worker, demand) for worker in known),
    )


def _blocks_queue(worker: WorkerView) -> tuple[float, float]:
    capacity = worker.facts.kv_blocks
    rate = capacity / (worker.rates.decode_s or FIRST_DECODE_S)
    return (blocks_taken(worker) - capacity) / rate, rate


def _level(queues: Iterable[tuple[float, float] | None], work: float) -> float:
    """When the last of ``work`` begins, poured over workers that are free in so many seconds (negative: that much is
    free now) and do so much a second. 0 at the least, and where some worker (None) has no bound."""
    known = []
    for queue in queues:
        if queue is None:
            return 0.0
        known.append(queue)
    if not known:
        return 0.0
    known.sort()
    level, rate = known[0][0], 0.0
    for ready_s, own_rate in known:
        room = (ready_s - level) * rate
        if rate and room >= work:
            break
        level, work, rate = ready_s, work - room, rate + own_rate
    return max(0.0, level + work / rate)
