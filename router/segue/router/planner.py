"""Which workers carry a request. A pure function over the fleet."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from segue.base.errors import Unavailable
from segue.proto.worker_pb2 import Role
from segue.router.fleet import FleetSnapshot, WorkerView


@dataclass(frozen=True, slots=True)
class Plan:
    """The decode worker is chosen with the prefill worker, so that it can be told before prefill ends.

    Without a prefill worker (``None``) decode computes the prompt itself.
    """

    prefill_id: str | None
    decode_id: str


def plan(fleet: FleetSnapshot, avoid: Collection[str] = ()) -> Plan:
    """The least loaded worker of each pool, if need be one that is to be avoided or spared.

    With no prefill worker at all the prompt is computed on decode: slower, and better than no answer.

    Raises:
        Unavailable: no decode worker is ready.
    """
    prefill = _usable(fleet.ready(Role.ROLE_PREFILL), avoid)
    decode = _usable(fleet.ready(Role.ROLE_DECODE), avoid)
    if not decode:
        attached = ", ".join(f"{worker.worker_id} ({worker.detail})" for worker in fleet.workers) or "none"
        empty = "no decode worker is" if prefill else "no prefill and no decode worker are"
        raise Unavailable(f"{empty} ready; attached workers: {attached}; try again when they are")
    return Plan(
        min(prefill, key=_prefill_load).worker_id if prefill else None,
        min(decode, key=_decode_load).worker_id,
    )


def _usable(ready: Sequence[WorkerView], avoid: Collection[str]) -> Sequence[WorkerView]:
    """The best that there is: neither avoided nor spared, else not avoided, else any."""
    others = [worker for worker in ready if worker.worker_id not in avoid]
    return [worker for worker in others if not worker.spared] or others or ready


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
