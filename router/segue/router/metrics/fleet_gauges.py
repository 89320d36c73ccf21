"""Readings of the fleet snapshot: what is attached now, and nothing of what has left."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from segue.base.metrics import Labels, Metric, Reading
from segue.proto.worker_pb2 import Role, WorkerState
from segue.router.metrics import catalogue
from segue.router.workers.fleet import FleetSnapshot, WorkerView

_STATES = ("loading", "warming", "ready", "draining")
_POOLS = ("prefill", "decode")

_OF_WORKER: dict[Metric, Callable[[WorkerView], float]] = {
    catalogue.WORKER_RUNNING: lambda worker: worker.load.running_requests,
    catalogue.WORKER_WAITING: lambda worker: worker.load.waiting_requests,
    catalogue.WORKER_WAITING_TOKENS: lambda worker: worker.load.waiting_tokens,
    catalogue.WORKER_ASSIGNED: lambda worker: worker.assigned_requests,
    catalogue.WORKER_ASSIGNED_TOKENS: lambda worker: worker.assigned_tokens,
    catalogue.WORKER_KV_BLOCKS: lambda worker: worker.facts.kv_blocks,
    catalogue.WORKER_FREE_BLOCKS: lambda worker: worker.load.free_blocks,
    catalogue.WORKER_KV_USAGE: lambda worker: kv_usage(worker.facts.kv_blocks, worker.load.free_blocks),
    catalogue.WORKER_HELD_OFFERS: lambda worker: worker.load.held_offers,
    catalogue.WORKER_CIRCUIT: lambda worker: worker.spared,
    catalogue.WORKER_PREFILL_RATE: lambda worker: worker.rates.prefill_tokens_per_s,
    catalogue.WORKER_STEP: lambda worker: worker.load.step_s,
    catalogue.WORKER_CROWDING: lambda worker: worker.rates.crowding,
}


def role_name(role: Role) -> str:
    return Role.Name(role).removeprefix("ROLE_").lower()


def state_name(state: WorkerState) -> str:
    return WorkerState.Name(state).removeprefix("WORKER_STATE_").lower()


def kv_usage(blocks: int, free_blocks: int) -> float:
    """Used blocks by all blocks; 0 while the engine has none."""
    return max(0.0, 1.0 - free_blocks / blocks) if blocks else 0.0


def read_fleet(fleet: FleetSnapshot, silence_s: Mapping[str, float]) -> dict[Metric, Reading]:
    """``silence_s`` is the time since each worker's last frame, by its id."""
    counts: dict[Labels, float] = {(pool, state): 0.0 for pool in _POOLS for state in _STATES}
    infos: dict[Labels, float] = {}
    readings: dict[Metric, dict[Labels, float]] = {metric: {} for metric in _OF_WORKER}
    silences: dict[Labels, float] = {}
    for worker in fleet.workers:
        pool = role_name(worker.role)
        labels = (worker.worker_id, pool)
        if worker.state:
            counts[pool, state_name(worker.state)] += 1
        for metric, read in _OF_WORKER.items():
            readings[metric][labels] = float(read(worker))
        silences[labels] = silence_s.get(worker.worker_id, 0.0)
        facts = worker.facts
        if facts.engine:
            simulated = "true" if facts.simulated else "false"
            infos[*labels, facts.engine, facts.engine_version, facts.accelerator, facts.transport, simulated] = 1.0
    return {
        catalogue.WORKERS: counts,
        catalogue.WORKER_INFO: infos,
        **readings,
        catalogue.WORKER_SILENCE: silences,
    }
