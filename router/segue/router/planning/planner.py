"""Which workers carry a request. A pure function over the fleet.

Every candidate is weighed in predicted seconds (:mod:`segue.router.planning.prediction`), so that queues, cached
prefixes, links and batches weigh what they cost. Workers that weigh the same take turns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar

from segue.base.errors import Unavailable
from segue.proto.worker_pb2 import ROLE_DECODE, ROLE_PREFILL, Role
from segue.router.planning.disaggregation import Disaggregation, Ways, decide
from segue.router.planning.prediction import (
    FIRST_PREFILL,
    Ask,
    DecodeCost,
    PrefillCost,
    decode_cost,
    decode_requests,
    handoff_s,
    lost_s,
    prefill_cost,
    queue_s,
    running,
)
from segue.router.rates.pooled_rates import KNOWN_BEYOND
from segue.router.workers.fleet import FleetSnapshot, WorkerView

Routing = Literal["kv", "load", "round-robin"]

# Costs this close are the same: less than a frame's way to a worker and back.
_SAME_S = 0.0002
# Of each pool, so many of the best are looked at as pairs, where links between pairs differ.
_PAIRED = 4

NO_ASK = Ask()


@dataclass(frozen=True, slots=True)
class Policy:
    """``kv`` weighs everything; ``load`` leaves prefix caches out; ``round-robin`` looks at nothing, for comparison."""

    routing: Routing = "kv"
    disaggregation: Disaggregation = field(default_factory=Disaggregation)


DEFAULT = Policy()


@dataclass(frozen=True, slots=True)
class Plan:
    """The decode worker is chosen with the prefill worker, so that it can be told before prefill ends.

    Without a prefill worker (``None``) decode computes the prompt itself; ``reason`` says why. ``prefill_tokens`` is
    what is expected to have to be computed of the prompt. ``tried`` marks a plan that was made to learn a rate.
    """

    prefill_id: str | None
    decode_id: str
    reason: str = field(default="", compare=False)
    prefill_tokens: int = field(default=0, compare=False)
    tried: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Weighed:
    """The candidates of both pools and the ones that are best. ``prefill`` is None if there are none."""

    prefills: Sequence[PrefillCost]
    decodes: Sequence[DecodeCost]
    prefill: PrefillCost | None
    decode: DecodeCost
    local: DecodeCost


def plan(
    fleet: FleetSnapshot,
    ask: Ask = NO_ASK,
    avoid: Collection[str] = (),
    policy: Policy = DEFAULT,
    leans_local: bool = False,
) -> Plan:
    """The best worker of each pool, if need be one that is full, spared or to be avoided.

    With no prefill worker at all, or where that is better, the prompt is computed on decode. ``leans_local`` says what
    was better for such a prompt the last time: it takes a clear advantage to change that.

    Raises:
        Unavailable: no decode worker is ready.
    """
    weighed = weigh(fleet, ask, avoid, policy)
    decision = decide(policy.disaggregation, _ways(fleet, ask, weighed), ask.number, leans_local)
    if weighed.prefill is None or decision.local:
        worker_id = weighed.local.worker.worker_id
        return Plan(None, worker_id, decision.reason, ask.uncached_tokens(worker_id), decision.tried)
    worker_id = weighed.prefill.worker.worker_id
    tokens = ask.uncached_tokens(worker_id)
    return Plan(worker_id, weighed.decode.worker.worker_id, decision.reason, tokens, decision.tried)


def decode_instead(fleet: FleetSnapshot, ask: Ask, policy: Disaggregation, leans_local: bool) -> bool:
    """Whether decode would compute such a prompt itself at this moment. Nothing is tried for it, and the workers with
    the least to do stand for their pools, which is a small part of a plan's work."""
    prefills, decodes = fleet.usable(Role.ROLE_PREFILL), fleet.usable(Role.ROLE_DECODE)
    if policy.mode == "always" or not (prefills and decodes):
        return False
    prefill = min(prefills, key=lambda worker: queue_s(worker, fleet.now_s))
    decode = min(decodes, key=lambda worker: (queue_s(worker, fleet.now_s), decode_requests(worker)))
    remote, local = prefill_cost(prefill, ask, fleet.now_s), decode_cost(decode, ask, fleet.now_s)
    ways = _ways(fleet, ask, Weighed((remote,), (local,), remote, local, local))
    return not local.full and decide(policy, ways, 0, leans_local).local


def weigh(fleet: FleetSnapshot, ask: Ask, avoid: Collection[str], policy: Policy) -> Weighed:
    """Raises Unavailable: no decode worker is ready."""
    if policy.routing != "kv":
        ask = replace(ask, cached={})
    now_s = fleet.now_s
    prefills = [prefill_cost(worker, ask, now_s) for worker in _usable(fleet, ROLE_PREFILL, avoid)]
    decodes = [decode_cost(worker, ask, now_s) for worker in _usable(fleet, ROLE_DECODE, avoid)]
    if not decodes:
        attached = ", ".join(f"{worker.worker_id} ({worker.detail})" for worker in fleet.workers) or "none"
        empty = "no decode worker is" if prefills else "no prefill and no decode worker are"
        raise Unavailable(f"{empty} ready; attached workers: {attached}; try again when they are")
    if policy.routing == "round-robin":
        first = _first_of(prefills) if prefills else None
        then = _first_of(decodes)
        return Weighed(prefills, decodes, first, then, then)
    roomy = [cost for cost in decodes if not cost.full] or decodes
    local = _best(roomy, lambda cost: cost.total_s + cost.local_s * (1 + running(cost.worker)))
    if not prefills:
        return Weighed(prefills, decodes, None, local, local)
    first, then = _pair(fleet, ask, [cost for cost in prefills if not cost.full] or prefills, roomy)
    return Weighed(prefills, decodes, first, then, local)


def _ways(fleet: FleetSnapshot, ask: Ask, weighed: Weighed) -> Ways:
    prefill, decode, local = weighed.prefill, weighed.decode, weighed.local
    decodes = fleet.ready(ROLE_DECODE)
    rates, tokens = local.worker.rates, ask.uncached_tokens(local.worker.worker_id)
    line = rates.stall or rates.prefill or (prefill.worker.rates.prefill if prefill is not None else FIRST_PREFILL)
    return Ways(
        remote_s=None if prefill is None else prefill.ttft_s,
        handoff_s=0.0
        if prefill is None or ask.output_tokens == 1
        else decode.wait_s + handoff_s(fleet, prefill.worker, decode.worker, ask),
        local_s=local.wait_s + local.local_s,
        stall_s=line(tokens),
        running=running(local.worker),
        tokens=tokens,
        local_known=KNOWN_BEYOND * max(rates.stall.reach, rates.prefill.reach) >= tokens,
        remote_known=prefill is not None and bool(prefill.worker.rates.prefill),
        remote_lost_s=0.0 if prefill is None else lost_s(decodes, prefill.prefill_s),
        doubt_s=max(0.0, min(rates.local_s, local.local_s / 2)),
        # One that runs streams has its share of what workers have in common already.
        local_lost_s=0.0 if decode_requests(local.worker) else lost_s(decodes, local.local_s),
    )


def _pair(
    fleet: FleetSnapshot, ask: Ask, prefills: Sequence[PrefillCost], decodes: Sequence[DecodeCost]
) -> tuple[PrefillCost, DecodeCost]:
    first = _best(prefills, lambda cost: cost.ttft_s)
    then = _best(decodes, lambda cost: cost.total_s + handoff_s(fleet, first.worker, cost.worker, ask))
    if not fleet.links.own:
        return first, then

    def total_s(pair: tuple[PrefillCost, DecodeCost]) -> float:
        return pair[0].ttft_s + pair[1].total_s + handoff_s(fleet, pair[0].worker, pair[1].worker, ask)

    nearest = sorted(prefills, key=lambda cost: cost.ttft_s)[:_PAIRED]
    others = sorted(decodes, key=lambda cost: cost.total_s)[:_PAIRED]
    best = min(((one, other) for one in nearest for other in others), key=total_s)
    return best if total_s(best) + _SAME_S < total_s((first, then)) else (first, then)


_Cost = TypeVar("_Cost", PrefillCost, DecodeCost)


def _best(costs: Sequence[_Cost], seconds: Callable[[_Cost], float]) -> _Cost:
    """The cheapest; of those that cost the same, the one whose last turn is longest ago."""
    if len(costs) == 1:
        return costs[0]
    each = [seconds(cost) for cost in costs]
    limit = min(each) + _SAME_S
    return _first_of([cost for cost, s in zip(costs, each, strict=True) if s <= limit])


def _first_of(costs: Sequence[_Cost]) -> _Cost:
    return min(costs, key=lambda cost: (cost.worker.turn, cost.worker.worker_id))


def _usable(fleet: FleetSnapshot, role: Role, avoid: Collection[str]) -> Sequence[WorkerView]:
    """The best that there is: neither avoided nor spared, else not avoided, else any."""
    if not avoid:
        return fleet.usable(role)
    ready = fleet.ready(role)
    others = [worker for worker in ready if worker.worker_id not in avoid]
    return [worker for worker in others if not worker.spared] or others or ready
