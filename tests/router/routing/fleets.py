"""Fleets to plan for: workers as the planner sees them."""

from __future__ import annotations

from dataclasses import replace

from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.worker_pb2 import EngineFacts, Load, Role, WorkerState
from segue.router.planning.disaggregation import Disaggregation
from segue.router.planning.planner import Policy
from segue.router.rates.lines import Line
from segue.router.rates.worker_rates import Rates
from segue.router.workers.fleet import FleetSnapshot, WorkerView

READY = WorkerState.WORKER_STATE_READY
BLOCK = 16
FACTS = EngineFacts(
    engine="scripted",
    kv_blocks=1000,
    max_running_requests=8,
    layout=BlockLayout(block_tokens=BLOCK, block_bytes=BLOCK * 1000),
)
ALWAYS = Policy(disaggregation=Disaggregation("always"))
ROOMY = Load(free_blocks=1000)
PREFILL_RATES = Rates(prefill_tokens_per_s=10_000, prefill=Line(0.005, 1e-4, 20))
DECODE_RATES = Rates(decode_s=2.0, decode_tokens=100, step=Line(0.01, 0.0005, 20))


def worker(worker_id: str, role: Role, state: WorkerState = READY, **changes: object) -> WorkerView:
    rates = PREFILL_RATES if role == Role.ROLE_PREFILL else DECODE_RATES
    view = WorkerView(worker_id, "e1", role, state, "", "127.0.0.1:1", FACTS, ROOMY, 0, 0, rates=rates)
    return replace(view, **changes)  # type: ignore[arg-type]


def prefill(number: int, **changes: object) -> WorkerView:
    return worker(f"prefill-{number}", Role.ROLE_PREFILL, **changes)  # type: ignore[arg-type]


def decode(number: int, **changes: object) -> WorkerView:
    return worker(f"decode-{number}", Role.ROLE_DECODE, **changes)  # type: ignore[arg-type]


def fleet(*workers: WorkerView, **changes: object) -> FleetSnapshot:
    return FleetSnapshot(workers, **changes)  # type: ignore[arg-type]
