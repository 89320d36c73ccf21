"""What a request would cost on each worker, in predicted seconds. Pure functions over the fleet, from measured rates.

Everything that speaks for or against a worker becomes a time that somebody would wait, so that a prefix in its cache, a
queue and a slow link weigh what they weigh. More load never makes a prediction shorter. The planner chooses by these
figures, the queue starts requests by them, and admission refuses by them: what one believes of a worker all do.

What this router has sent counts at once. What a worker says of itself is older, but has other routers' work in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from segue.proto.worker_pb2 import ROLE_PREFILL
from segue.router.planning.departures import Departures
from segue.router.rates.lines import Line
from segue.router.rates.stays import FIRST_DECODE_TOKENS
from segue.router.rates.worker_rates import first_by_steps_s
from segue.router.workers.fleet import FleetSnapshot, WorkerView

# Taken for a worker that has not answered yet. Too fast rather than too slow: its first answer corrects it.
FIRST_PREFILL = Line(0.0, 1 / 16_384)
FIRST_STEP = Line(0.01, 0.0002)
FIRST_DECODE_S = 1.0


@dataclass(frozen=True, slots=True)
class Ask:
    """One answer that is to be placed. ``output_tokens`` is the most it may get, 0 if that isn't known.

    ``cached`` says how many of the prompt's first tokens a worker has in its prefix cache, or soon will.
    ``number`` counts requests of about its size since the last one that was to try something.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    cached: Mapping[str, int] = field(default_factory=dict)
    number: int = 0

    def uncached_tokens(self, worker_id: str) -> int:
        """What the worker would have to compute, or be sent: an engine computes at least the last token."""
        return max(1, self.prompt_tokens - self.cached.get(worker_id, 0))


class PrefillCost(NamedTuple):
    """``queue_s`` is for what is ahead, ``prefill_s`` for the prompt itself."""

    worker: WorkerView
    queue_s: float
    prefill_s: float
    full: bool

    @property
    def ttft_s(self) -> float:
        return self.queue_s + self.prefill_s


class DecodeCost(NamedTuple):
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
    uncached = ask.uncached_tokens(worker.worker_id)
    block_tokens = worker.block_tokens
    known = worker.kv_blocks and block_tokens and worker.has_told  # A new worker hasn't said anything.
    full = bool(known) and worker.free_blocks < uncached / block_tokens
    return PrefillCost(worker, queue_s(worker, now_s), prefill_line(worker)(uncached), full)


def decode_cost(worker: WorkerView, ask: Ask, now_s: float) -> DecodeCost:
    uncached, requests = ask.uncached_tokens(worker.worker_id), decode_requests(worker)
    wait_s = _held_up_s(worker, blocks_asked(worker, uncached, ask.output_tokens), now_s)
    return DecodeCost(
        worker,
        wait_s,
        steps_s=usual_output(worker, ask.output_tokens) * (worker.rates.step or FIRST_STEP)(requests + 1),
        local_s=queue_s(worker, now_s) + local_prefill_s(worker, uncached),
        full=wait_s > 0,
    )


def handoff_s(fleet: FleetSnapshot, prefill: WorkerView, decode: WorkerView, ask: Ask) -> float:
    """From token 1 to the next one: the KV cache that decode doesn't have travels, and the request joins the batch."""
    line = fleet.links.between(prefill.worker_id, decode.worker_id)
    return line(decode.token_bytes * ask.uncached_tokens(decode.worker_id)) + decode.rates.join_s


def lost_s(workers: Iterable[WorkerView], seconds: float) -> float:
    """What running streams of these decode workers lose together while one more worker computes for so long."""
    slowed = [(running(worker), worker.rates.crowding) for worker in workers if worker.rates.crowding]
    return seconds * sum(streams * crowding / (1 + crowding) for streams, crowding in slowed)


# What a worker has to compute


def prefill_line(worker: WorkerView) -> Line:
    """How long it takes for a prompt, by its tokens."""
    rates = worker.rates
    if rates.prefill:
        return rates.prefill
    return Line(0.0, 1 / rates.prefill_tokens_per_s) if rates.prefill_tokens_per_s else FIRST_PREFILL


def local_prefill_s(worker: WorkerView, tokens: int) -> float:
    """How long a decode worker takes for a prompt beside what it runs, with no other prompt before it.

    By its steps, as soon as one has had a prompt in it: a line through the first few prompts says little of others, and
    nothing of other batches.
    """
    rates, requests = worker.rates, decode_requests(worker)
    if rates.stall:
        by_steps_s = first_by_steps_s(rates.step, rates.stall, tokens, requests)
        return min(max(0.5 * by_steps_s, by_steps_s + rates.local_s), 2 * by_steps_s)
    return max(prefill_line(worker)(tokens), first_by_steps_s(rates.step, rates.stall, 0, requests))


def queued_tokens(worker: WorkerView) -> int:
    """Prompt tokens that it has still to compute.

    Where nothing of ours is under way, half of what it said counts: an engine that does nothing reports nothing new,
    what it said last may be of a load that is gone, and whoever keeps away for it would never learn better.
    """
    if not worker.assigned_requests and worker.role == ROLE_PREFILL:
        return worker.waiting_tokens // 2
    # Without what it has cached, if that is known.
    assigned = worker.assigned_prefill_tokens
    if not assigned and worker.role == ROLE_PREFILL:
        assigned = worker.assigned_tokens
    return max(assigned, worker.waiting_tokens)


def queue_s(worker: WorkerView, now_s: float) -> float:
    """How long it will take for them. Of the first request a part is done: one is under way at a time."""
    line, tokens = prefill_line(worker), queued_tokens(worker)
    if not tokens:
        return 0.0
    requests = max(1, worker.assigned_requests if worker.role == ROLE_PREFILL else 0)
    whole_s = line.fixed_s * requests + line.each_s * tokens
    done_s = max(0.0, now_s - worker.busy_since_s) if worker.busy_since_s else 0.0
    return whole_s - min(done_s, 0.9 * whole_s / requests)


# What a decode worker has in its steps and before them


def decode_requests(worker: WorkerView) -> int:
    """In its steps, on their way there or waiting for them."""
    return max(worker.assigned_requests, worker.engine_requests)


def running(worker: WorkerView) -> int:
    """Streams that would stand still while it computes a prompt."""
    return max(worker.running_requests, worker.assigned_requests)


def usual_output(worker: WorkerView, most_tokens: int = 0) -> float:
    """Few answers reach the most they may, 0 if that isn't known: what they had lately counts."""
    usual = worker.rates.decode_tokens or FIRST_DECODE_TOKENS
    return min(most_tokens, usual) if most_tokens else usual


def stay_s(worker: WorkerView) -> float:
    """How long a request keeps its place."""
    rates = worker.rates
    if rates.token_s and rates.decode_tokens:
        return rates.token_s * rates.decode_tokens + rates.join_s
    return rates.decode_s or FIRST_DECODE_S


def blocks_taken(worker: WorkerView) -> float:
    """Of a decode worker's KV cache, what its requests will have written by their end."""
    requests, block_tokens = decode_requests(worker), worker.block_tokens
    if not (requests and block_tokens):
        return 0.0
    needed = requests + (worker.assigned_tokens + requests * usual_output(worker)) / block_tokens
    return max(needed, worker.kv_blocks - worker.free_blocks)


def blocks_asked(worker: WorkerView, prompt_tokens: int, output_tokens: int) -> float:
    """What one answer will need of it; 0 where that isn't known."""
    block_tokens = worker.block_tokens
    return 1 + (prompt_tokens + usual_output(worker, output_tokens)) / block_tokens if block_tokens else 0.0


def free_places(worker: WorkerView, now_s: float) -> Iterator[tuple[float, float]]:
    """When there are places for further requests: seconds from now, and how many more. Any number at once where the
    engine has no bound."""
    capacity, requests = worker.max_running_requests, decode_requests(worker)
    if not capacity:
        yield 0.0, float("inf")
        return
    if requests < capacity:
        yield 0.0, capacity - requests
    for seconds in _departures(worker, capacity, now_s).beyond(max(0, requests - capacity)):
        yield seconds, 1.0


def free_blocks(worker: WorkerView, now_s: float) -> Iterator[tuple[float, float]]:
    """Likewise blocks of its KV cache: what is left over now, then what each request that leaves gives back. If too
    many have been promised, the first ones to leave make up for that."""
    capacity = worker.kv_blocks
    if not capacity or not worker.block_tokens:
        yield 0.0, float("inf")
        return
    taken, requests = blocks_taken(worker), decode_requests(worker)
    left, each = capacity - taken, taken / requests if requests else float(capacity)
    leaving = math.ceil(max(0.0, -left / each))
    if not leaving:
        yield 0.0, left
    departures = _departures_of_blocks(worker, requests, now_s)
    for number, seconds in enumerate(departures.beyond(max(0, leaving - 1))):
        yield seconds, each if number or not leaving else left + leaving * each


def _held_up_s(worker: WorkerView, blocks: float, now_s: float) -> float:
    """Until one more request finds a place and so many blocks. A worker that has nothing takes whatever comes."""
    requests, places, capacity = decode_requests(worker), worker.max_running_requests, worker.kv_blocks
    if not requests:
        return 0.0
    wait_s = 0.0
    if places and requests >= places:
        wait_s = next(_departures(worker, places, now_s).beyond(requests - places), math.inf)
    missing = blocks + blocks_taken(worker) - capacity if capacity and blocks else 0.0
    if missing > 0:
        leaving = math.ceil(missing * requests / blocks_taken(worker))
        departures = _departures_of_blocks(worker, requests, now_s)
        wait_s = max(wait_s, next(departures.beyond(leaving - 1), math.inf))
    return wait_s


def _departures_of_blocks(worker: WorkerView, requests: int, now_s: float) -> Departures:
    """Of its requests alone. What each of other routers' has is not known: they are expected to stay in full, since
    more of them must not look as if the first one left sooner."""
    places, known = worker.max_running_requests, len(worker.ends_s)
    in_steps = max(1, min(requests, places) if places else requests)
    return Departures(now_s, stay_s(worker), worker.ends_s, coming=max(0, in_steps - known))


def _departures(worker: WorkerView, places: int, now_s: float) -> Departures:
    """From so many places, all of them taken: by those that have begun, and then by those that come."""
    known = len(worker.ends_s)
    others = max(0, min(decode_requests(worker) - worker.assigned_requests, places - known))
    return Departures(now_s, stay_s(worker), worker.ends_s, others, max(0, places - known - others))
