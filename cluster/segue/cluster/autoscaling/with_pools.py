"""Routers and pools put together: what the policy decides about, and what is done of what it decides. No I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from segue.cluster.pools import PoolName, PoolsView, PoolView, turner
from segue.cluster.scaling.joint import Budget
from segue.cluster.scaling.policy import Decision, PoolDecision
from segue.cluster.scaling.readings import Cluster, WorkerReading

Mode = Literal["off", "advise", "act"]

_NO_WORK: Mapping[str, float] = {}


def with_pools(cluster: Cluster, view: PoolsView, now_s: float) -> Cluster:
    """The routers' picture of exactly those workers that the pools have.

    One that was started and that no router knows yet is starting: it must not be asked for again. One that was told to
    leave drains, though no router may have heard. One that its pool has no more is gone, though a router may remember.
    """
    known = {worker.worker_id: worker for worker in cluster.workers}
    return replace(cluster, workers=tuple(_readings(known, view, now_s)))


def _readings(known: Mapping[str, WorkerReading], view: PoolsView, now_s: float) -> Iterator[WorkerReading]:
    for pool in view.pools:
        for worker in pool.workers:
            reading = known.get(worker.worker_id)
            if reading is None or reading.pool != pool.name:
                reading = WorkerReading(worker.worker_id, "", pool.name, "starting", now_s)
            if worker.phase == "leaving":
                reading = replace(reading, phase="draining")
            elif reading.phase == "draining" or worker.phase != "running":
                # It turns, or has died, or was told to leave by somebody else: it, or who takes its place, will serve.
                reading = replace(reading, phase="starting")
            yield reading


@dataclass(frozen=True, slots=True)
class Turn:
    """One worker is to take the other role."""

    worker_id: str
    pool: PoolName


@dataclass(frozen=True, slots=True)
class Orders:
    """What to do now. ``held`` says what of the decision has to wait, and why; empty: nothing."""

    scale: Mapping[PoolName, int] = field(default_factory=dict)
    turn: Turn | None = None
    held: str = ""


def orders(decision: Decision, view: PoolsView, budget: Budget | None, work: Mapping[str, float] = _NO_WORK) -> Orders:
    """What of a decision can be done now.

    A worker that may take either role turns rather than that one leaves and another one loads: of several the one with
    the least ``work``, by worker id. What leaves holds its GPUs until it is gone: with a budget no more start than fit
    beside it.
    """
    changes = [one for one in (decision.prefill, decision.decode) if one.change]
    if decision.turn_to is not None:
        giving = view.of("decode" if decision.turn_to == "prefill" else "prefill")
        if (chosen := turner(giving.workers, work)) is not None:
            return Orders(turn=Turn(chosen, decision.turn_to))
    wanted = {one.pool: one.workers for one in changes}
    if budget is None:
        return Orders(wanted)
    free = budget.gpus - sum(_each(budget, pool.name) * len(pool.workers) for pool in view.pools)
    now: dict[PoolName, int] = {one.pool: min(one.workers, one.present) for one in changes}
    # One at a time, to whichever lacks most.
    while missing := [pool for pool in now if now[pool] < wanted[pool] and _each(budget, pool) <= free]:
        pool = max(missing, key=lambda name: wanted[name] - now[name])
        now[pool] += 1
        free -= _each(budget, pool)
    short = [pool for pool in now if now[pool] < wanted[pool]]
    scale = {one.pool: now[one.pool] for one in changes if now[one.pool] != one.present}
    held = f"{' and '.join(short)} waits for GPUs: {max(0, free)} of {budget.gpus} are free" if short else ""
    return Orders(scale, held=held)


def _each(budget: Budget, pool: PoolName) -> int:
    return budget.prefill_gpus if pool == "prefill" else budget.decode_gpus


def told(view: PoolsView, mode: Mode, decision: Decision | None, held: str = "") -> PoolsView:
    """The pools with what was decided last, for whoever looks."""
    pools = tuple(_told(pool, decision, held) for pool in view.pools) if decision is not None else view.pools
    return replace(view, scaling_mode=mode, pools=pools)


def _told(pool: PoolView, decision: Decision, held: str) -> PoolView:
    one = decision.prefill if pool.name == "prefill" else decision.decode
    return replace(pool, recommended=one.workers, reason=reason_of(one, held))


def reason_of(one: PoolDecision, held: str) -> str:
    """Why a pool should have so many workers, and ``held`` if it is to change: why that is not all done."""
    return f"{one.reason}; {held}" if held and one.change else one.reason
