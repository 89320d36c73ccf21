"""How much each pool has to do, summed over its workers. A pure function over the fleet.

Sums and not means: divided by what one worker should carry they say how many workers are needed, whatever their number
is now. A worker's own figures cover what all routers have sent it, so that any router may be asked.
"""

from __future__ import annotations

from collections.abc import Sequence

from segue.proto.worker_pb2 import Role
from segue.router.workers.fleet import FleetSnapshot, WorkerView

# Taken until a prefill worker has answered once. Too fast rather than too slow: a pool must not grow on a guess.
_UNMEASURED_TOKENS_PER_S = 16_384.0


def prefill_backlog_s(fleet: FleetSnapshot, queued_tokens: float = 0.0) -> float:
    """Seconds that one prefill worker would take for all prompt tokens that wait: on workers, and ``queued_tokens`` in
    the router."""
    workers = fleet.ready(Role.ROLE_PREFILL)
    tokens = queued_tokens + sum(max(worker.assigned_tokens, worker.load.waiting_tokens) for worker in workers)
    return tokens / _mean_rate(workers)


def decode_use(fleet: FleetSnapshot) -> float:
    """How many decode workers would be full: of each the larger of its KV cache's use and of its batch's. Above 1 for a
    worker on which requests wait."""
    return sum(_use(worker) for worker in fleet.ready(Role.ROLE_DECODE))


def _mean_rate(workers: Sequence[WorkerView]) -> float:
    rates = [worker.rates.prefill_tokens_per_s for worker in workers if worker.rates.prefill_tokens_per_s]
    return sum(rates) / len(rates) if rates else _UNMEASURED_TOKENS_PER_S


def _use(worker: WorkerView) -> float:
    blocks, places = worker.facts.kv_blocks, worker.facts.max_running_requests
    requests = max(worker.assigned_requests, worker.load.running_requests + worker.load.waiting_requests)
    cache = (blocks - worker.load.free_blocks) / blocks if blocks and requests else 0.0
    return max(cache, requests / places if places else 0.0)
