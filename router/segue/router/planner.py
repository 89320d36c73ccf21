"""Which workers carry a request. A pure function over the fleet."""

from __future__ import annotations

from dataclasses import dataclass

from segue.base.errors import Unavailable
from segue.proto.worker_pb2 import Role
from segue.router.fleet import FleetSnapshot, WorkerView


@dataclass(frozen=True, slots=True)
class Plan:
    """The decode worker is chosen with the prefill worker, so that it can be told before prefill ends."""

    prefill_id: str
    decode_id: str


def plan(fleet: FleetSnapshot) -> Plan:
    """The least loaded worker of each pool.

    Raises:
        Unavailable: a pool has no ready worker.
    """
    pools = {"prefill": fleet.ready(Role.ROLE_PREFILL), "decode": fleet.ready(Role.ROLE_DECODE)}
    empty = [name for name, workers in pools.items() if not workers]
    if empty:
        attached = ", ".join(f"{worker.worker_id} ({worker.detail})" for worker in fleet.workers) or "none"
        raise Unavailable(
            f"no {' and no '.join(empty)} worker is ready; attached workers: {attached}; try again when they are"
        )
    prefill = min(pools["prefill"], key=_prefill_load)
    decode = min(pools["decode"], key=_decode_load)
    return Plan(prefill.worker_id, decode.worker_id)


def _prefill_load(worker: WorkerView) -> tuple[int, int, str]:
    """Prefill is bound by compute: what counts is tokens ahead in the queue."""
    return (
        max(worker.assigned_tokens, worker.load.waiting_tokens),
        worker.assigned_requests,
        worker.worker_id,
    )


def _decode_load(worker: WorkerView) -> tuple[int, int, str]:
    """Decode is bound by how many requests share a step, then by room for their KV."""
    waiting = worker.load.running_requests + worker.load.waiting_requests
    return (max(worker.assigned_requests, waiting), -worker.load.free_blocks, worker.worker_id)
