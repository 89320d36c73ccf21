"""How much each pool has to do, summed over its workers and over all routers. Pure functions.

Sums and not means: divided by what one worker should carry they say how many workers are needed, whatever their number
is now. What a worker says of itself covers what all routers have sent it. What waits in a router's queue, and what it
knows to be cached of the prompts that it has sent, it alone can tell: that is its backlog.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segue.proto.worker_pb2 import Role, RouterBacklog
from segue.router.workers.fleet import FleetSnapshot, WorkerView

# Taken until a prefill worker has answered once. Too fast rather than too slow: a pool must not grow on a guess.
_UNMEASURED_TOKENS_PER_S = 16_384.0


@dataclass(frozen=True, slots=True)
class Queue:
    """Requests that no worker has yet. Of what is cached of their prompts nobody knows: ``cached_share`` of other
    prompts' tokens was, lately."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_share: float = 0.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """Of one router, or the sum over several. ``prefill_tokens`` are to be computed, in queues and on prefill workers;
    ``decode_requests`` wait in queues for decode."""

    prefill_tokens: float = 0.0
    decode_requests: int = 0


def own_backlog(fleet: FleetSnapshot, queue: Queue) -> Backlog:
    """This router's. While a prefill worker stands idle nothing waits for prefill: it waits for places or blocks in
    decode. It waits for decode, too, while no prefill worker is ready: then decode computes prompts."""
    prefill = fleet.ready(Role.ROLE_PREFILL)
    sent = sum(worker.assigned_prefill_tokens for worker in prefill)
    if any(_idle(worker) for worker in prefill):
        return Backlog(sent, queue.requests)
    return Backlog(sent + queue.prompt_tokens * (1 - queue.cached_share), 0 if prefill else queue.requests)


def with_others(own: Backlog, router_id: str, told: Iterable[RouterBacklog]) -> Backlog:
    """With what the other routers have told workers, which may have come by several of them, and late."""
    latest: dict[str, RouterBacklog] = {}
    for backlog in told:
        known = latest.get(backlog.router_id)
        if backlog.router_id != router_id and (known is None or backlog.number > known.number):
            latest[backlog.router_id] = backlog
    return Backlog(
        own.prefill_tokens + sum(other.prefill_tokens for other in latest.values()),
        own.decode_requests + sum(other.decode_requests for other in latest.values()),
    )


def need_known(role: Role, fleet: FleetSnapshot, backlog: Backlog) -> bool:
    """False while there is work and the pool has no ready worker: they start, or all are lost. What one of them could
    carry is not known then, and a sum over none of them would say that none is needed."""
    if fleet.ready(role):
        return True
    working = any(worker.assigned_requests or worker.engine_requests for worker in fleet.workers)
    return not (working or backlog.prefill_tokens or backlog.decode_requests)


def prefill_backlog_s(fleet: FleetSnapshot, backlog: Backlog) -> float:
    """Seconds that one prefill worker would take for all prompt tokens that wait."""
    return backlog.prefill_tokens / _mean_rate(fleet.ready(Role.ROLE_PREFILL))


def decode_use(fleet: FleetSnapshot, backlog: Backlog) -> float:
    """How many decode workers would be full: of each the larger of its KV cache's use and of its batch's. Above 1 for a
    worker for which requests wait, on it or in queues."""
    workers = fleet.ready(Role.ROLE_DECODE)
    return sum(_use(worker, backlog.decode_requests / len(workers)) for worker in workers)


def _idle(worker: WorkerView) -> bool:
    return not (worker.assigned_requests or worker.engine_requests or worker.spared)


def _mean_rate(workers: Sequence[WorkerView]) -> float:
    """By their own steps, in which all routers' prompts are; else by what this router has timed."""
    measured = (worker.rates.step_prompt_tokens_per_s or worker.rates.prefill_tokens_per_s for worker in workers)
    rates = [rate for rate in measured if rate]
    return sum(rates) / len(rates) if rates else _UNMEASURED_TOKENS_PER_S


def _use(worker: WorkerView, queued: float) -> float:
    blocks, places = worker.kv_blocks, worker.max_running_requests
    requests = max(worker.assigned_requests, worker.engine_requests) + queued
    if not requests:
        return 0.0
    used = blocks - worker.free_blocks
    waiting = worker.engine_requests - worker.running_requests + queued
    each = used / worker.running_requests if worker.running_requests else 0.0
    cache = (used + waiting * each) / blocks if blocks else 0.0
    return max(cache, requests / places if places else 0.0)
