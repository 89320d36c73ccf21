"""How many workers a pool needs by its own signal: ``ceil(sum over the pool / target of one worker)``.

Prefill's signal is its backlog in seconds: the uncached prompt tokens that wait, in the router's queue or on workers,
over the rate at which one warm worker computes them. Decode's is how full it is: of each worker the larger of its KV
use and of its batch over the batch that the ITL target allows.

Both are sums over the pool, not means, so that the answer does not depend on how many workers there are now; and both
come from workers that are past their first seconds, since a cold engine's first steps measure its compiler.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from segue.cluster.scaling.readings import Cluster, Pool, WorkerReading

# Less than this from the target changes nothing: the Kubernetes autoscaler's own tolerance.
_TOLERANCE = 0.1


@dataclass(frozen=True, slots=True)
class Targets:
    """What one worker should carry, and below which attainment a pool is not made smaller."""

    backlog_s: float = 1.5
    decode_use: float = 0.8
    prefill_utilisation: float = 0.7
    ttft_attainment: float = 0.95
    itl_attainment: float = 0.95
    warm_after_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Demand:
    """``workers`` is what the signal asks for. ``reason`` has the figures; ``can_shrink`` is False while the pool's
    guardrail says that clients are served worse than promised."""

    workers: int
    can_shrink: bool
    reason: str


def prefill_demand(cluster: Cluster, targets: Targets) -> Demand:
    """Of the prefill pool. Nothing measured yet asks for what there is."""
    pool = _taking_work(cluster, "prefill")
    rate = warm_rate(cluster, "prefill", targets)
    if not rate:
        return Demand(len(pool), False, "no prefill rate has been measured yet")
    tokens = cluster.queued_tokens + sum(worker.backlog_tokens for worker in cluster.of("prefill"))
    backlog_s = tokens / rate
    # A queue that is short because enough workers empty it is no reason to take one of them away.
    arriving = cluster.arriving_tokens_per_s / rate / targets.prefill_utilisation
    workers = max(_ceil(backlog_s / targets.backlog_s, len(pool)), _ceil(arriving, len(pool)))
    kept = cluster.ttft_attainment >= targets.ttft_attainment
    workers, told = _guarded(workers, len(pool), kept, backlog_s > 0 and not kept)
    reason = (
        f"backlog {backlog_s:.2f} s of one worker's work, target {targets.backlog_s:g} s a worker; new work for "
        f"{arriving:.2f} workers at {targets.prefill_utilisation:.0%} use; TTFT attainment "
        f"{cluster.ttft_attainment:.0%}{told}"
    )
    return Demand(workers, kept, reason)


def decode_demand(cluster: Cluster, targets: Targets) -> Demand:
    """Of the decode pool."""
    pool = _taking_work(cluster, "decode")
    use = sum(_use(worker) for worker in cluster.of("decode"))
    workers = _ceil(use / targets.decode_use, len(pool))
    kept = cluster.itl_attainment >= targets.itl_attainment
    workers, told = _guarded(workers, len(pool), kept, use > 0 and not kept)
    reason = (
        f"use {use:.2f} over {len(pool)} workers (KV cache or batch, whichever is fuller), target "
        f"{targets.decode_use:g} a worker; ITL attainment {cluster.itl_attainment:.0%}{told}"
    )
    return Demand(workers, kept, reason)


def warm_rate(cluster: Cluster, pool: Pool, targets: Targets) -> float:
    """Tokens a second of one worker: the mean over warm ones, 0 without any that was measured."""
    measured = [
        worker.tokens_per_s
        for worker in cluster.of(pool)
        if worker.phase != "starting" and worker.ready_for_s >= targets.warm_after_s and worker.tokens_per_s > 0
    ]
    return sum(measured) / len(measured) if measured else 0.0


def _taking_work(cluster: Cluster, pool: Pool) -> list[WorkerReading]:
    """With those that start: they were asked for because of what waits now, and must not be asked for again."""
    return [worker for worker in cluster.of(pool) if worker.phase != "draining"]


def _use(worker: WorkerReading) -> float:
    batch = worker.running / worker.running_at_slo if worker.running_at_slo > 0 else 0.0
    return max(worker.kv_use, batch)


def _ceil(wanted: float, present: int) -> int:
    if present and abs(wanted / present - 1) <= _TOLERANCE:
        return present
    return math.ceil(wanted)


def _guarded(workers: int, present: int, kept: bool, busy: bool) -> tuple[int, str]:
    """A missed promise keeps a pool from shrinking, and makes it grow by one while it has work."""
    if kept:
        return workers, ""
    floor = present + 1 if busy else present
    return max(workers, floor), ", below target"
