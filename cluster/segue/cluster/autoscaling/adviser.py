"""One look of the scaling policy, and what it remembers of it: the same wherever the pools run. No I/O.

Looks of the routers and a view of the pools go in; what the policy decides and what can be done of it now come out.
Whoever asked says whether it was done.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from segue.cluster.autoscaling.fleet_readings import STALE_AFTER_S, Look, fleet_readings, work_by_worker
from segue.cluster.autoscaling.with_pools import Orders, orders, with_pools
from segue.cluster.pools import POOL_NAMES, PoolsView
from segue.cluster.scaling.pace import History
from segue.cluster.scaling.policy import Decision, PolicyState, ScalingPolicy, decide


@dataclass(frozen=True, slots=True)
class Advice:
    """What the policy wants, and what to do of it now."""

    decision: Decision
    orders: Orders


class Adviser:
    """Remembers windows and pauses between looks; a new one waits them out again."""

    def __init__(self) -> None:
        self._state: PolicyState | None = None
        self._if_done: PolicyState | None = None

    def look(
        self,
        policy: ScalingPolicy,
        looks: Iterable[Look],
        view: PoolsView,
        now_s: float,
        stale_after_s: float = STALE_AFTER_S,
    ) -> Advice | None:
        """None where no router has said anything within ``stale_after_s``: then nothing is decided."""
        looks = [look for look in looks if now_s - look.heard_s <= stale_after_s]
        heard = fleet_readings(looks, now_s, stale_after_s)
        if heard is None:
            return None
        before = self._state or as_if_asked_for(view, now_s)
        decision, after = decide(policy, before, with_pools(heard, view, now_s), now_s)
        self._state, self._if_done = not_done(before, after), after
        budget = policy.joint.budget if policy.joint is not None else None
        return Advice(decision, orders(decision, view, budget, work_by_worker(look.state for look in looks)))

    def done(self) -> None:
        """What the last look wanted changed has been changed. Until this is said it counts as not done."""
        self._state = self._if_done


def as_if_asked_for(view: PoolsView, now_s: float) -> PolicyState:
    """What to begin with: the workers that there are were wanted until now. A start or a restart, when nothing is known
    of the load yet, must not shrink what somebody has set up before the window for it has passed."""
    until_s = math.nextafter(now_s, -math.inf)  # So that a window of 0, which growing has, doesn't see it.
    prefill, decode = (History(asked=((until_s, view.of(pool).desired),)) for pool in POOL_NAMES)
    return PolicyState(prefill, decode)


def not_done(before: PolicyState, after: PolicyState) -> PolicyState:
    """What is remembered of a decision that changed nothing: what was asked for. Rate limits and pauses count what was
    done."""
    return replace(
        after,
        prefill=replace(after.prefill, changes=before.prefill.changes),
        decode=replace(after.decode, changes=before.decode.changes),
        balance=replace(after.balance, changed_s=before.balance.changed_s),
    )
