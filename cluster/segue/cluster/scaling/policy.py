"""The scaling policy: one look at the cluster, one decision for both pools, with its reasons.

By default each pool follows its own signal (``demand.py``) at its own pace (``pace.py``). With a budget of GPUs the two
are decided together (``joint.py``, ``balance.py``): the split that serves most of what arrives within the SLO. Two
pools scaled apart answer a change in the mix of prompts and answers by growing one and, much later, shrinking the
other; together they trade, and a worker that can take either role turns without loading the model again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from segue.cluster.scaling.balance import Balance, Joint, move
from segue.cluster.scaling.demand import Demand, Targets, decode_demand, prefill_demand, warm_rate
from segue.cluster.scaling.joint import Limits, Split, Work, served_by_each
from segue.cluster.scaling.pace import Bounds, History, Pace, Step, asked_for, step
from segue.cluster.scaling.readings import Cluster, Pool
from segue.cluster.scaling.room import Keep, Load, Room
from segue.cluster.scaling.starts import Starts, watched

# A backlog should be gone within this time, on top of what arrives meanwhile, or within a start if that takes longer:
# workers that are asked for to be done with it sooner come when it is gone.
_CATCH_UP_S = 10.0


@dataclass(frozen=True, slots=True)
class ScalingPolicy:
    """With ``joint``, the paces count only until enough has been measured to decide jointly."""

    targets: Targets = field(default_factory=Targets)
    prefill: Pace = field(default_factory=Pace)
    decode: Pace = field(default_factory=Pace)
    joint: Joint | None = None


@dataclass(frozen=True, slots=True)
class PoolDecision:
    """``present`` counts those that take work or start; ``workers`` is how many there should be."""

    pool: Pool
    present: int
    workers: int
    reason: str

    @property
    def change(self) -> int:
        return self.workers - self.present


@dataclass(frozen=True, slots=True)
class Decision:
    """``turn_to`` is the role that a ``flex`` worker of the other pool should take rather than that one worker starts
    here and one leaves there; None if no pool grows at the other's cost."""

    prefill: PoolDecision
    decode: PoolDecision

    @property
    def pools(self) -> tuple[PoolDecision, PoolDecision]:
        return self.prefill, self.decode

    @property
    def turn_to(self) -> Pool | None:
        if self.prefill.change * self.decode.change >= 0:
            return None
        return "prefill" if self.prefill.change > 0 else "decode"


@dataclass(frozen=True, slots=True)
class PolicyState:
    """What is remembered between two looks. A new one, after a restart, only waits its windows out again."""

    prefill: History = field(default_factory=History)
    decode: History = field(default_factory=History)
    balance: Balance = field(default_factory=Balance)
    starts: Starts = field(default_factory=Starts)
    room: Room = field(default_factory=Room)


def decide(policy: ScalingPolicy, state: PolicyState, cluster: Cluster, now_s: float) -> tuple[Decision, PolicyState]:
    """What to do now, and what to remember."""
    state = replace(state, starts=watched(state.starts, cluster.workers, now_s))
    if policy.joint is not None and (decided := _jointly(policy, policy.joint, state, cluster, now_s)) is not None:
        return decided
    now = _split(cluster)
    wanted = prefill_demand(cluster, policy.targets)
    prefill = step(policy.prefill, state.prefill, now.prefill, _asked(wanted, now.prefill), now_s)
    needed = decode_demand(cluster, policy.targets)
    decode = step(policy.decode, state.decode, now.decode, _asked(needed, now.decode), now_s)
    return (
        Decision(
            PoolDecision("prefill", now.prefill, prefill.workers, _reason(wanted, prefill)),
            PoolDecision("decode", now.decode, decode.workers, _reason(needed, decode)),
        ),
        replace(state, prefill=prefill.history, decode=decode.history),
    )


def _jointly(
    policy: ScalingPolicy, joint: Joint, state: PolicyState, cluster: Cluster, now_s: float
) -> tuple[Decision, PolicyState] | None:
    """None where not all has been measured that it takes, or nothing arrives."""
    now, targets, start_s = _split(cluster), policy.targets, state.starts.start_s(joint.start_s)
    work = _work(cluster, targets, max(_CATCH_UP_S, start_s))
    if not work.measured:
        return None
    limits, told = _limits(policy, joint, now, work, cluster)
    keep = Keep(start_s, joint.room_starts, targets.ttft_attainment, targets.itl_attainment, joint.gain)
    room = state.room.after(_load(cluster, work, now_s), keep.window_s)
    sized = room.sized(work, keep)
    if sized != work:
        told = f"; that has room for the last {keep.window_s:.0f} s, now {_tokens(work)} come{told}"
    joint = replace(joint, limits=limits, may_give_back=room.covers(keep.window_s))
    moved = move(joint, state.balance, now, sized, now_s)
    # A lull, in which nothing can be measured, must find in the windows what the pools had until then.
    prefill_kept = asked_for(policy.prefill, state.prefill, moved.split.prefill, now_s)
    decode_kept = asked_for(policy.decode, state.decode, moved.split.decode, now_s)
    return (
        Decision(
            PoolDecision("prefill", now.prefill, moved.split.prefill, moved.reason + told),
            PoolDecision("decode", now.decode, moved.split.decode, moved.reason + told),
        ),
        PolicyState(prefill_kept, decode_kept, moved.balance, state.starts, room),
    )


def _load(cluster: Cluster, work: Work, now_s: float) -> Load:
    return Load(now_s, cluster.arriving_tokens_per_s / work.prefill_rate, work.output_tokens_per_s / work.decode_rate)


def _tokens(work: Work) -> str:
    return f"{work.prompt_tokens_per_s:.0f} prompt and {work.output_tokens_per_s:.0f} output tokens/s"


def _limits(policy: ScalingPolicy, joint: Joint, now: Split, work: Work, cluster: Cluster) -> tuple[Limits, str]:
    """The bounds of both pools, and of one that keeps its promise too rarely no fewer workers than it has; and that in
    words. The budget comes before promises.

    Where decode is what bounds, prompts miss their time to first token because they wait for places there: then prefill
    may give workers to it.
    """
    targets, bounds = policy.targets, Limits(policy.prefill.bounds, policy.decode.bounds)
    by_prefill, by_decode = served_by_each(now.prefill, now.decode, work, joint.use)
    kept, told = bounds, ""
    if cluster.ttft_attainment < targets.ttft_attainment and not by_decode < min(1.0, by_prefill):
        kept = replace(kept, prefill=_at_least(kept.prefill, now.prefill))
        told += f"; TTFT attainment {cluster.ttft_attainment:.0%}, below target, keeps prefill's workers"
    if cluster.itl_attainment < targets.itl_attainment:
        kept = replace(kept, decode=_at_least(kept.decode, now.decode))
        told += f"; ITL attainment {cluster.itl_attainment:.0%}, below target, keeps decode's workers"
    return (kept, told) if kept.fit(joint.budget) else (bounds, "")


def _at_least(bounds: Bounds, present: int) -> Bounds:
    return replace(bounds, least=bounds.clamp(present))


def _asked(demand: Demand, present: int) -> int:
    return demand.workers if demand.can_shrink else max(demand.workers, present)


def _reason(demand: Demand, taken: Step) -> str:
    return f"{demand.reason}: {demand.workers} wanted" + (f"; {taken.held}" if taken.held else "")


def _work(cluster: Cluster, targets: Targets, catch_up_s: float) -> Work:
    backlog = cluster.queued_tokens + sum(worker.backlog_tokens for worker in cluster.of("prefill"))
    return Work(
        prompt_tokens_per_s=cluster.arriving_tokens_per_s + backlog / catch_up_s,
        output_tokens_per_s=cluster.arriving_output_tokens_per_s,
        prefill_rate=warm_rate(cluster, "prefill", targets),
        decode_rate=warm_rate(cluster, "decode", targets),
    )


def _split(cluster: Cluster) -> Split:
    return Split(_present(cluster, "prefill"), _present(cluster, "decode"), 0.0)


def _present(cluster: Cluster, pool: Pool) -> int:
    return sum(worker.phase != "draining" for worker in cluster.of(pool))
