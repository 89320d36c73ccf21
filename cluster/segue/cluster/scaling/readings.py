"""What routers tell of the cluster, and the one picture that follows from all of them.

Every router knows all workers, but only its own queue. So what workers say of themselves is taken once per worker, the
latest, and what queues hold is added up over routers.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Pool = Literal["prefill", "decode"]
WorkerPhase = Literal["starting", "ready", "draining"]


@dataclass(frozen=True, slots=True)
class WorkerReading:
    """One worker as one router sees it.

    ``backlog_tokens`` are prompt tokens on it that are neither computed nor cached. ``tokens_per_s`` is what it was
    measured to do at full load in its own role: prompt tokens of a prefill worker, output tokens of a decode worker
    within the ITL target; 0 if nothing has been measured. ``running_at_slo`` is the batch at which its steps would take
    as long as the ITL target allows, 0 if unknown. ``kv_use`` is the share of its KV blocks that is taken or asked for;
    above 1 when requests wait for blocks.
    """

    worker_id: str
    epoch: str
    pool: Pool
    phase: WorkerPhase
    read_s: float
    ready_for_s: float = 0.0
    backlog_tokens: float = 0.0
    tokens_per_s: float = 0.0
    kv_use: float = 0.0
    running: float = 0.0
    running_at_slo: float = 0.0


@dataclass(frozen=True, slots=True)
class RouterReading:
    """One router's own queue and rates, over the time since its last reading.

    ``queued_tokens`` are the uncached prompt tokens of requests that no worker has yet; ``arriving_tokens_per_s`` those
    of new requests, and ``arriving_output_tokens_per_s`` what these will want to have written, by the mean of those
    that ended. The attainments are shares of the requests of this router that ended lately, 1 without any.
    """

    router_id: str
    read_s: float
    workers: Sequence[WorkerReading]
    queued_tokens: float = 0.0
    arriving_tokens_per_s: float = 0.0
    ended_requests: float = 0.0
    arriving_output_tokens_per_s: float = 0.0
    ttft_attainment: float = 1.0
    itl_attainment: float = 1.0


@dataclass(frozen=True, slots=True)
class Cluster:
    """The one picture. Workers that no fresh reading names have left, and nothing of them is kept."""

    workers: tuple[WorkerReading, ...]
    queued_tokens: float
    arriving_tokens_per_s: float
    arriving_output_tokens_per_s: float
    ttft_attainment: float
    itl_attainment: float

    def of(self, pool: Pool) -> tuple[WorkerReading, ...]:
        return tuple(worker for worker in self.workers if worker.pool == pool)


def merge(readings: Iterable[RouterReading], now_s: float, stale_after_s: float) -> Cluster | None:
    """The picture at ``now_s``; None if no router has told anything within ``stale_after_s``: nothing follows then."""
    latest: dict[str, RouterReading] = {}
    for reading in readings:
        if now_s - reading.read_s <= stale_after_s and _newer(reading, latest.get(reading.router_id)):
            latest[reading.router_id] = reading
    if not latest:
        return None
    workers: dict[str, WorkerReading] = {}
    for reading in latest.values():
        for worker in reading.workers:
            if now_s - worker.read_s <= stale_after_s and _newer(worker, workers.get(worker.worker_id)):
                workers[worker.worker_id] = worker
    routers = list(latest.values())
    return Cluster(
        workers=tuple(workers[name] for name in sorted(workers)),
        queued_tokens=sum(router.queued_tokens for router in routers),
        arriving_tokens_per_s=sum(router.arriving_tokens_per_s for router in routers),
        arriving_output_tokens_per_s=sum(router.arriving_output_tokens_per_s for router in routers),
        ttft_attainment=_mean((router.ttft_attainment, router.ended_requests) for router in routers),
        itl_attainment=_mean((router.itl_attainment, router.ended_requests) for router in routers),
    )


def _newer(one: WorkerReading | RouterReading, other: WorkerReading | RouterReading | None) -> bool:
    return other is None or one.read_s > other.read_s


def _mean(weighted: Iterable[tuple[float, float]]) -> float:
    """1 where nothing has ended: nothing was missed either."""
    pairs = [(value, weight) for value, weight in weighted if weight > 0]
    return sum(value * weight for value, weight in pairs) / sum(weight for _, weight in pairs) if pairs else 1.0
