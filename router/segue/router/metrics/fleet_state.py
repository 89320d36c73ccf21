"""The fleet and the last minute as one message. A pure function over what is known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from segue.proto.fleet_pb2 import FleetClass, FleetPool, FleetRates, FleetState, FleetWorker, StepTime
from segue.proto.worker_pb2 import Role, WorkerState
from segue.router.queueing.slo import SloClass
from segue.router.workers.fleet import FleetSnapshot, WorkerView

_ROLES = (Role.ROLE_PREFILL, Role.ROLE_DECODE)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds by worker: since its last frame, and since it was first known to be ready."""

    silence_s: Mapping[str, float]
    ready_for_s: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Requests:
    """What the router has in hand, by class; ``queued_tokens`` are the prompts' of all that wait."""

    running: Mapping[str, int]
    queued: Mapping[str, int]
    queued_tokens: int = 0


def fleet_state(
    fleet: FleetSnapshot,
    times: Times,
    requests: Requests,
    rates: Mapping[str, FleetRates],
    promises: Iterable[SloClass] = (),
) -> FleetState:
    """What the workers, the queues and the window say; who the router is, its caller adds."""
    promised = {one.name: one for one in promises}
    classes = sorted({*requests.running, *requests.queued, *filter(None, rates)})
    return FleetState(
        pools=[_pool(role, [worker for worker in fleet.workers if worker.role == role]) for role in _ROLES],
        workers=[_worker(worker, times) for worker in fleet.workers],
        classes=[
            FleetClass(
                name=name,
                queued_requests=requests.queued.get(name, 0),
                running_requests=requests.running.get(name, 0),
                rates=rates.get(name),
                promised_ttft_s=promised[name].ttft_s if name in promised else 0.0,
                promised_tokens_per_s=promised[name].tokens_per_s if name in promised else 0.0,
            )
            for name in classes
        ],
        rates=rates.get(""),
        running_requests=sum(requests.running.values()),
        queued_requests=sum(requests.queued.values()),
        queued_prompt_tokens=requests.queued_tokens,
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


def _worker(worker: WorkerView, times: Times) -> FleetWorker:
    step = worker.rates.step
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
        heard_s_ago=times.silence_s.get(worker.worker_id, 0.0),
        ready_for_s=times.ready_for_s.get(worker.worker_id, 0.0) if worker.ready else 0.0,
        assigned_prefill_tokens=worker.assigned_prefill_tokens,
        step_prompt_tokens_per_s=worker.rates.step_prompt_tokens_per_s,
        step=StepTime(fixed_s=step.fixed_s, per_request_s=step.each_s, samples=step.samples),
        version=worker.version,
        flex=worker.flex,
        turns=worker.turns,
    )
