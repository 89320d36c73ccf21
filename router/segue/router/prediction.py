"""What a request would cost on each worker, in predicted seconds. Pure functions over the fleet, from measured rates.

Everything that speaks for or against a worker becomes a time that somebody would wait, so that a prefix in its cache, a
queue and a slow link weigh what they weigh. More load never makes a prediction shorter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from segue.proto.worker_pb2 import Role
from segue.router.fleet import FleetSnapshot, WorkerView
from segue.router.lines import Line

# Taken for a worker that has not answered yet. Too fast rather than too slow: its first answer corrects it.
FIRST_PREFILL = Line(0.0, 1 / 16_384)
FIRST_STEP = Line(0.01, 0.0002)
FIRST_DECODE_S = 1.0
FIRST_DECODE_TOKENS = 256.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer that is to be placed. ``output_tokens`` is the most it may get, 0 if that isn't known.

    ``cached`` says how many of the prompt's first tokens a worker has in its prefix cache, or soon will.
    ``number`` counts requests: planners that try things now and then do so by it.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached: Mapping[str, int] = field(default_factory=dict)
    number: int = 0

    def uncached_tokens(self, worker_id: str) -> int:
        """What the worker would have to compute, or be sent: an engine computes at least the last token."""
        return max(1, self.prompt_tokens - self.cached.get(worker_id, 0))


@dataclass(frozen=True, slots=True)
class PrefillCost:
    """``queue_s`` is for what is ahead, ``prefill_s`` for the prompt itself."""

    worker: WorkerView
    queue_s: float
    prefill_s: float
    full: bool

    @property
    def ttft_s(self) -> float:
        return self.queue_s + self.prefill_s


@dataclass(frozen=True, slots=True)
class DecodeCost:
    """``wait_s`` is for a place and for blocks, ``steps_s`` for the answer's tokens at the pace of the batch it joins.

    ``local_s`` is for computing the prompt there, behind what is queued to be computed there already.
    """

    worker: WorkerView
    wait_s: float
    steps_s: float
    local_s: float
    full: bool

    @property
    def total_s(self) -> float:
        return self.wait_s + self.steps_s


def prefill_cost(worker: WorkerView, ask: Ask, now_s: float) -> PrefillCost:
    line = worker.rates.prefill or FIRST_PREFILL
    uncached = ask.uncached_tokens(worker.worker_id)
    queue_s = _queue_s(worker, line, now_s)
    block_tokens = worker.facts.layout.block_tokens
    known = worker.facts.kv_blocks and block_tokens and worker.load.ByteSize()  # A new worker hasn't said anything.
    full = bool(known) and worker.load.free_blocks < uncached / block_tokens
    return PrefillCost(worker, queue_s, line(uncached), full)


def decode_cost(worker: WorkerView, ask: Ask, now_s: float) -> DecodeCost:
    requests = decode_requests(worker)
    wait_s = max(_places_wait_s(worker, requests), _blocks_wait_s(worker, requests, ask))
    step = worker.rates.step or FIRST_STEP
    line = worker.rates.prefill or FIRST_PREFILL
    return DecodeCost(
        worker,
        wait_s,
        steps_s=_output_tokens(worker, ask) * step(requests + 1),
        local_s=_queue_s(worker, line, now_s) + line(ask.uncached_tokens(worker.worker_id)),
        full=wait_s > 0,
    )


def handoff_s(fleet: FleetSnapshot, prefill: WorkerView, decode: WorkerView, ask: Ask) -> float:
    """From token 1 to the next one: the KV cache that decode doesn't have travels, and the request joins the batch."""
    layout = decode.facts.layout
    each_bytes = layout.block_bytes / layout.block_tokens if layout.block_tokens else 0.0
    line = fleet.links.between(prefill.worker_id, decode.worker_id)
    return line(each_bytes * ask.uncached_tokens(decode.worker_id)) + decode.rates.join_s


def predict_ttft_s(fleet: FleetSnapshot, ask: Ask) -> float:
    """When the first token would come if the request were sent to the best workers now. Infinite without a decode pool.

    The wait for a place in decode counts too: a request that decode can't take holds its blocks on prefill.
    """
    decode = [decode_cost(worker, ask, fleet.now_s) for worker in fleet.ready(Role.ROLE_DECODE)]
    if not decode:
        return float("inf")
    prefill = [prefill_cost(worker, ask, fleet.now_s) for worker in fleet.ready(Role.ROLE_PREFILL)]
    wait_s = min(cost.wait_s for cost in decode)
    if not prefill:
        return min(cost.wait_s + cost.local_s for cost in decode)
    return max(min(cost.ttft_s for cost in prefill), wait_s)


def predict_step_s(fleet: FleetSnapshot) -> float:
    """How long a step of the best decode worker would take with one more request in it: the pace of its tokens."""
    steps = [(worker.rates.step or FIRST_STEP)(decode_requests(worker) + 1) for worker in fleet.ready(Role.ROLE_DECODE)]
    return min(steps, default=float("inf"))


def decode_requests(worker: WorkerView) -> int:
    """In its steps or waiting for them. What we assigned is known at once; the load is older but has others' too."""
    return max(worker.assigned_requests, worker.load.running_requests + worker.load.waiting_requests)


def _queue_s(worker: WorkerView, line: Line, now_s: float) -> float:
    """Until what it has to compute is done. What it has been busy with for a while is partly done."""
    if not worker.assigned_requests and worker.role == Role.ROLE_PREFILL:
        # Nothing of ours is there. An engine that does nothing reports nothing new: what it said last may be of a load
        # that is gone, and whoever keeps away for it would never learn better.
        tokens, requests = worker.load.waiting_tokens // 2, 0
    else:
        tokens = max(worker.assigned_prefill_tokens, worker.load.waiting_tokens)
        requests = worker.assigned_requests if worker.role == Role.ROLE_PREFILL else 0
    if not tokens:
        return 0.0
    queue_s = line.fixed_s * max(1, requests) + line.each_s * tokens
    done_s = max(0.0, now_s - worker.busy_since_s) if worker.busy_since_s else 0.0
    # One request is under way at a time; the others haven't begun.
    return queue_s - min(done_s, 0.9 * queue_s / max(1, requests))


def _output_tokens(worker: WorkerView, ask: Ask) -> float:
    """Few answers reach the most they may: what they had lately counts."""
    usual = worker.rates.decode_tokens or FIRST_DECODE_TOKENS
    return min(ask.output_tokens, usual) if ask.output_tokens else usual


def _places_wait_s(worker: WorkerView, requests: int) -> float:
    capacity = worker.facts.max_running_requests
    return _wait_s(requests + 1, capacity, worker) if capacity else 0.0


def _blocks_wait_s(worker: WorkerView, requests: int, ask: Ask) -> float:
    capacity, block_tokens = worker.facts.kv_blocks, worker.facts.layout.block_tokens
    if not (capacity and block_tokens and requests):
        return 0.0
    usual = worker.rates.decode_tokens or FIRST_DECODE_TOKENS
    needed = requests + (worker.assigned_tokens + requests * usual) / block_tokens
    taken = max(needed, capacity - worker.load.free_blocks)
    asked = 1 + (ask.uncached_tokens(worker.worker_id) + _output_tokens(worker, ask)) / block_tokens
    return _wait_s(taken + asked, capacity, worker)


def _wait_s(wanted: float, capacity: int, worker: WorkerView) -> float:
    """Until ``wanted`` fits: all of ``capacity`` is given back once in the time that a request stays."""
    return max(0.0, wanted - capacity) / capacity * (worker.rates.decode_s or FIRST_DECODE_S)
