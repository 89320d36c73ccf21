"""What single cells of the fleet's tables show."""

from __future__ import annotations

from collections import Counter

from rich.text import Text

from segue.cli.units import duration
from segue.proto.fleet_pb2 import FleetPool, FleetWorker, Quantiles
from segue.proto.pools_pb2 import Pool, PoolWorkerPhase
from segue.proto.worker_pb2 import Role, WorkerState

_PHASE = "POOL_WORKER_PHASE_"
_STATE_STYLES = {"ready": "green", "draining": "yellow", "loading": "cyan", "warming": "cyan"}


def ready_text(pool: FleetPool) -> Text:
    return Text(f"{pool.ready} of {pool.workers}", style="" if pool.ready else "bold red")


def state_text(worker: FleetWorker) -> Text:
    if worker.circuit_open:
        return Text("spared", style="bold red")
    name = WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower()
    # A draining worker's detail says how far it is.
    words = worker.detail if name == "draining" and worker.detail else name
    return Text(words, style=_STATE_STYLES.get(name, ""))


def pool_text(worker: FleetWorker) -> str:
    """``decode``, or ``decode, flex (2 turns)``."""
    turns = f" ({worker.turns} turn{'' if worker.turns == 1 else 's'})" if worker.turns else ""
    return role_name(worker.role) + (f", flex{turns}" if worker.flex else "")


def recommended_text(pool: Pool) -> Text:
    """The scaling policy's number, standing out where it isn't the pool's."""
    if not pool.HasField("recommended"):
        return Text()
    change = pool.recommended - pool.desired
    return Text(f"{pool.recommended}" + f" ({change:+d})" * bool(change), style="bold yellow" if change else "")


def under_way_text(pool: Pool) -> str:
    """``1 leaving, 1 turning``: workers of it that aren't simply there."""
    phases = Counter(PoolWorkerPhase.Name(worker.phase).removeprefix(_PHASE).lower() for worker in pool.workers)
    starting = max(0, pool.desired - phases["running"] - phases["restarting"] - phases["turning"])
    counts = {"starting": starting, **{name: phases[name] for name in ("leaving", "restarting", "turning")}}
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def quantile_text(quantiles: Quantiles, name: str) -> str:
    return duration(getattr(quantiles, name)) if quantiles.count else ""


def is_well(worker: FleetWorker) -> bool:
    return worker.state == WorkerState.WORKER_STATE_READY and not worker.circuit_open


def work_of(worker: FleetWorker) -> int:
    return worker.load.running_requests + worker.load.waiting_requests + worker.assigned_requests


def role_name(role: Role) -> str:
    return Role.Name(role).removeprefix("ROLE_").lower()


def kv_used(blocks: int, free_blocks: int) -> float:
    return max(0.0, 1.0 - free_blocks / blocks) if blocks else 0.0
