"""Why a request went where it went, for whoever asks. Made only then, from what the plan was made of."""

from __future__ import annotations

from collections.abc import Collection

from segue.proto.inference_pb2 import RoutingDecision
from segue.proto.worker_pb2 import Role, WorkerState
from segue.router.planning.planner import Plan, Policy, weigh
from segue.router.planning.prediction import Ask, handoff_s, running
from segue.router.workers.fleet import FleetSnapshot, WorkerView

Candidate = RoutingDecision.Candidate

_ROLES = {Role.ROLE_PREFILL: "prefill", Role.ROLE_DECODE: "decode"}


def explain(fleet: FleetSnapshot, ask: Ask, avoid: Collection[str], policy: Policy, made: Plan) -> RoutingDecision:
    """Every attached worker with its predicted costs, or why it was left out."""
    weighed = weigh(fleet, ask, avoid, policy)
    decision = RoutingDecision(local_prefill=made.prefill_id is None, reason=made.reason)
    costs: dict[str, dict[str, float]] = {}
    full: set[str] = set()
    for prefill in weighed.prefills:
        costs[prefill.worker.worker_id] = {"queue": prefill.queue_s, "prefill": prefill.prefill_s}
        full |= {prefill.worker.worker_id} if prefill.full else set()
    for decode in weighed.decodes:
        name = decode.worker.worker_id
        scores = {"wait": decode.wait_s, "decode": decode.steps_s}
        if made.prefill_id is None:
            scores |= {"prefill": decode.local_s, "held up": decode.local_s * running(decode.worker)}
        elif weighed.prefill is not None:
            scores["transfer"] = handoff_s(fleet, weighed.prefill.worker, decode.worker, ask)
        costs[name] = scores
        full |= {name} if decode.full else set()
    for worker in fleet.workers:
        name = worker.worker_id
        candidate = decision.candidates.add(
            worker_id=name,
            role=_ROLES.get(worker.role, ""),
            chosen=name in {made.prefill_id, made.decode_id},
            cached_tokens=ask.cached.get(name, 0),
        )
        if name in costs:
            candidate.scores_s.update(costs[name])
            candidate.scores_s["total"] = sum(costs[name].values())
            candidate.excluded = "full" if name in full and not candidate.chosen else ""
        else:
            candidate.excluded = _why_not(worker, avoid)
    return decision


def _why_not(worker: WorkerView, avoid: Collection[str]) -> str:
    if not worker.ready:
        return WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower()
    if worker.worker_id in avoid:
        return "left by this answer"
    return "spared: it failed its last requests" if worker.spared else "not considered"
