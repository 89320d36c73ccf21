"""Whether the cluster should take one more request now. A pure function over the fleet.

A cluster that takes all it is offered answers nobody in time. So a request is admitted only if the wait ahead of it,
predicted from what is queued and from measured rates, is short; otherwise it is refused at once and told when to come
back. Three things can be short, and each is predicted alike, as what is taken beyond the capacity over the rate at
which it is given back:

- prefill: the prompt tokens queued ahead, at the rate at which the worker was seen to compute them;
- places in decode's steps: requests assigned beyond ``max_running_requests``, of which each place is given back once in
  the time that a request was seen to stay;
- blocks of decode's KV cache: what the assigned requests will need beyond what there is, given back likewise.

The wait is the longest of them on the best worker of each pool. More load never makes it shorter, and without load it
is zero: an idle cluster refuses nobody.

This decides over the cluster as a whole, first come first served. Classes of requests, priorities and tenants' shares
would be further fields of :class:`Demand` and further bounds beside ``max_queue_s``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segue.proto.worker_pb2 import Role
from segue.router.fleet import FleetSnapshot, WorkerView

# Taken for a worker that has not answered yet. Too fast rather than too slow: its first answer corrects it.
_FIRST_PREFILL_TOKENS_PER_S = 16_384.0
_FIRST_DECODE_S = 1.0
_FIRST_DECODE_TOKENS = 256.0

_RETRY_MIN_S, _RETRY_MAX_S = 0.25, 60.0


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
    """The policy: refuse whoever would wait longer than ``max_queue_s`` or than its own deadline allows."""

    max_queue_s: float = 5.0

    def refusal(self, fleet: FleetSnapshot, demand: Demand) -> Refusal | None:
        """None: take it."""
        wait = predicted_wait(fleet, demand)
        limit_s = min(self.max_queue_s, demand.timeout_s)
        if wait.seconds <= limit_s:
            return None
        bound = "--max-queue-s is" if self.max_queue_s <= demand.timeout_s else "the request's deadline leaves"
        # The queue shortens by a second a second. To come back when it is half empty leaves room for others who do.
        retry_after_s = min(_RETRY_MAX_S, max(_RETRY_MIN_S, wait.seconds - self.max_queue_s / 2))
        return Refusal(
            f"the cluster is busy: the wait for {wait.what} would be {wait.seconds:.1f} s and {bound} {limit_s:g} s; "
            f"try again in {retry_after_s:.1f} s",
            retry_after_s,
        )


def predicted_wait(fleet: FleetSnapshot, demand: Demand) -> Wait:
    """How long this request would be held up by others. 0 where a pool is empty: whoever plans says so better."""
    prefill = _shortest(
        _unless_idle(worker, _prefill_wait(worker)) for worker in _usable(fleet.ready(Role.ROLE_PREFILL))
    )
    decode = _shortest(
        _unless_idle(worker, _decode_wait(worker, demand)) for worker in _usable(fleet.ready(Role.ROLE_DECODE))
    )
    return max(prefill, decode, key=lambda wait: wait.seconds)


def _usable(ready: Sequence[WorkerView]) -> Sequence[WorkerView]:
    """Without those whose breakers are open, which stand idle because the planner spares them."""
    return [worker for worker in ready if not worker.spared] or ready


def _shortest(waits: Iterable[Wait]) -> Wait:
    return min(waits, key=lambda wait: wait.seconds, default=Wait(0.0, "a worker"))


def _unless_idle(worker: WorkerView, predicted: Wait) -> Wait:
    """No wait where nothing of ours is under way. An engine that does nothing reports nothing new: what it said last
    may be of a load that is gone, and whoever refuses by it would never learn better. One request finds out.
    """
    return predicted if worker.assigned_requests else Wait(0.0, predicted.what)


def _prefill_wait(worker: WorkerView) -> Wait:
    # What we sent is known at once; what the worker says is older but covers what other routers sent.
    queued_tokens = max(worker.assigned_tokens, worker.load.waiting_tokens)
    rate = worker.rates.prefill_tokens_per_s or _FIRST_PREFILL_TOKENS_PER_S
    return Wait(queued_tokens / rate, "prefill")


def _decode_wait(worker: WorkerView, demand: Demand) -> Wait:
    places = Wait(_places_wait_s(worker), "a place in decode")
    blocks = Wait(_blocks_wait_s(worker, demand), "KV cache blocks in decode")
    return max(places, blocks, key=lambda wait: wait.seconds)


def _places_wait_s(worker: WorkerView) -> float:
    capacity = worker.facts.max_running_requests
    if not capacity:
        return 0.0
    return _wait_s(_decode_requests(worker) + 1, capacity, worker)


def _blocks_wait_s(worker: WorkerView, demand: Demand) -> float:
    capacity, block_tokens = worker.facts.kv_blocks, worker.facts.layout.block_tokens
    requests = _decode_requests(worker)
    if not (capacity and block_tokens and requests):
        return 0.0
    # What requests will have written by their end. Few reach the most they may: their mean counts.
    mean_output = worker.rates.decode_tokens or _FIRST_DECODE_TOKENS
    needed = requests + (worker.assigned_tokens + requests * mean_output) / block_tokens
    taken = max(needed, capacity - worker.load.free_blocks)
    output = min(demand.output_tokens, mean_output) if demand.output_tokens else mean_output
    asked = demand.n * (1 + (demand.prompt_tokens + output) / block_tokens)
    return _wait_s(taken + asked, capacity, worker)


def _decode_requests(worker: WorkerView) -> int:
    return max(worker.assigned_requests, worker.load.running_requests + worker.load.waiting_requests)


def _wait_s(wanted: float, capacity: int, worker: WorkerView) -> float:
    """Until ``wanted`` fits: all of ``capacity`` is given back once in the time that a request stays."""
    return max(0.0, wanted - capacity) / capacity * (worker.rates.decode_s or _FIRST_DECODE_S)
