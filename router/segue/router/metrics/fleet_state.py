"""The fleet and the last minute as one message. A pure function over what is known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from segue.proto.fleet_pb2 import FleetClass, FleetPool, FleetRates, FleetState, FleetWorker
from segue.proto.worker_pb2 import Role, WorkerState
from segue.router.fleet import FleetSnapshot, WorkerView

_ROLES = (Role.ROLE_PREFILL, Role.ROLE_DECODE)


@dataclass(frozen=True, slots=True)
class Requests:
    """What the router has in hand, by class."""

    running: Mapping[str, int]
    queued: Mapping[str, int]


def fleet_state(
    fleet: FleetSnapshot,
    silence_s: Mapping[str, float],
    requests: Requests,
    rates: Mapping[str, FleetRates],
) -> FleetState:
    """What the workers, the queues and the window say; who the router is, its caller adds."""
    classes = sorted({*requests.running, *requests.queued, *filter(None, rates)})
    return FleetState(
        pools=[_pool(role, [worker for worker in fleet.workers if worker.role == role]) for role in _ROLES],
        workers=[_worker(worker, silence_s.get(worker.worker_id, 0.0)) for worker in fleet.workers],
        classes=[
            FleetClass(
                name=name,
                queued_requests=requests.queued.get(name, 0),
                running_requests=requests.running.get(name, 0),
                rates=rates.get(name),
            )
            for name in classes
        ],
        rates=rates.get(""),
        running_requests=sum(requests.running.values()),
        queued_requests=sum(requests.queued.values()),
    )


def _pool(role: Role, workers: list[WorkerView]) -> FleetPool:
    return FleetPool(
        role=role,
        workers=len(workers),
        ready=sum(worker.ready for worker in workers),
        draining=sum(worker.state == WorkerState.WORKER_STATE_DRAINING for worker in workers),
        running_requests=sum(worker.load.running_requests for worker in workers),
        waiting_requests=sum(worker.load.waiting_requests for worker in workers),
        waiting_tokens=sum(worker.load.waiting_tokens for worker in workers),
        kv_blocks=sum(worker.facts.kv_blocks for worker in workers),
        free_blocks=sum(worker.load.free_blocks for worker in workers),
    )


def _worker(worker: WorkerView, silence_s: float) -> FleetWorker:
    return FleetWorker(
        worker_id=worker.worker_id,
        epoch=worker.epoch,
        role=worker.role,
        state=worker.state,
        detail=worker.detail,
        address=worker.address,
        facts=worker.facts,
        load=worker.load,
        assigned_requests=worker.assigned_requests,
        assigned_tokens=worker.assigned_tokens,
        circuit_open=worker.spared,
        prefill_tokens_per_s=worker.rates.prefill_tokens_per_s,
        decode_request_s=worker.rates.decode_s,
        heard_s_ago=silence_s,
    )
