"""Workers as a router sees them, with what their pool is scaled by."""

from __future__ import annotations

from segue.proto.worker_pb2 import EngineFacts, Load, Role, WorkerState
from segue.router.rates.worker_rates import Rates
from segue.router.workers.fleet import WorkerView

READY, DRAINING = WorkerState.WORKER_STATE_READY, WorkerState.WORKER_STATE_DRAINING


def prefill(number: int, *, sent: int = 0, running: int = 0, rate: float = 1000.0) -> WorkerView:
    """This router has ``sent`` tokens that are still to be computed; ``running`` requests are anybody's."""
    return WorkerView(
        worker_id=f"p{number}",
        epoch="e",
        role=Role.ROLE_PREFILL,
        state=READY,
        detail="",
        address="",
        facts=EngineFacts(),
        load=Load(running_requests=running),
        assigned_requests=1 if sent else 0,
        assigned_tokens=2 * sent,  # Half of each prompt is cached.
        assigned_prefill_tokens=sent,
        rates=Rates(prefill_tokens_per_s=2 * rate, step_prompt_tokens_per_s=rate),
    )


def decode(
    number: int, *, running: int = 0, waiting: int = 0, free: int = 100, state: WorkerState = READY
) -> WorkerView:
    """With 100 blocks and ten places."""
    return WorkerView(
        worker_id=f"d{number}",
        epoch="e",
        role=Role.ROLE_DECODE,
        state=state,
        detail="",
        address="",
        facts=EngineFacts(kv_blocks=100, max_running_requests=10),
        load=Load(running_requests=running, waiting_requests=waiting, free_blocks=free),
        assigned_requests=0,
        assigned_tokens=0,
    )
