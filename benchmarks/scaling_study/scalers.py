"""Who decides: a fixed split, rules for each pool as an autoscaler runs them, or Segue's policy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from scaling_study.fleet import Fleet

from segue.cluster.scaling.balance import Joint
from segue.cluster.scaling.demand import Targets
from segue.cluster.scaling.joint import Budget
from segue.cluster.scaling.pace import Bounds, Direction, History, Pace, step
from segue.cluster.scaling.policy import PolicyState, ScalingPolicy, decide
from segue.cluster.scaling.readings import Pool


class Scaler(Protocol):
    """Looks at a fleet every ``interval_s`` and changes it."""

    interval_s: float

    def look(self, fleet: Fleet) -> None: ...


@dataclass(frozen=True)
class Candidate:
    """One row of the table. ``prefill`` and ``decode`` are what it begins with."""

    name: str
    prefill: int
    decode: int
    scaler: Callable[[], Scaler]


class Static:
    interval_s = 3600.0

    def look(self, fleet: Fleet) -> None:
        pass


class PoolRules:
    """One HorizontalPodAutoscaler a pool, as llm-d documents them: prefill by a backlog of 1.5 s a worker, decode by
    summed KV use of 0.8 a worker, one more worker every 180 s, one less every 300 s. Neither knows of the other; a
    worker that finds no GPU stays pending.
    """

    interval_s = 15.0

    def __init__(self, most: int) -> None:
        self._pace = Pace(Direction(0.0, 1, 180.0), Direction(300.0, 1, 300.0), Bounds(1, most))
        self._history: dict[Pool, History] = {"prefill": History(), "decode": History()}

    def look(self, fleet: Fleet) -> None:
        cluster = fleet.readings()
        backlog = cluster.queued_tokens + sum(worker.backlog_tokens for worker in cluster.of("prefill"))
        speeds = [worker.tokens_per_s for worker in cluster.of("prefill") if worker.tokens_per_s]
        speed = sum(speeds) / len(speeds) if speeds else 1.0
        use = sum(worker.kv_use for worker in cluster.of("decode"))
        sums: dict[Pool, float] = {"prefill": backlog / speed / 1.5, "decode": use / 0.8}
        for pool, wanted in sums.items():
            present = len(fleet.present(pool))
            asked = present if abs(wanted / present - 1) <= 0.1 else -int(-wanted // 1)
            taken = step(self._pace, self._history[pool], present, max(1, asked), fleet.now_s)
            self._history[pool] = taken.history
            _resize(fleet, pool, taken.workers)


class Policy:
    """Segue's own, as it would act. ``flex``: workers turn from one role to the other."""

    interval_s = 5.0

    def __init__(self, policy: ScalingPolicy, *, flex: bool = False) -> None:
        self._policy = policy
        self._flex = flex
        self._state = PolicyState()

    def look(self, fleet: Fleet) -> None:
        decision, self._state = decide(self._policy, self._state, fleet.readings(), fleet.now_s)
        if self._flex and decision.turn_to is not None:
            source: Pool = "decode" if decision.turn_to == "prefill" else "prefill"
            fleet.let_go(source, turns_to=decision.turn_to)
            return
        # First what makes room.
        for one in sorted((decision.prefill, decision.decode), key=lambda pool: pool.change):
            _resize(fleet, one.pool, one.workers)


def fixed(prefill: int, decode: int) -> Candidate:
    return Candidate(f"static {prefill}+{decode}", prefill, decode, Static)


def scalers(gpus: int) -> list[Candidate]:
    """Those that change the pools. They begin with half of the GPUs."""
    bounds = Bounds(1, gpus - 1)
    pace = Pace(Direction(0.0, 4, 60.0), Direction(300.0, 1, 60.0), bounds)
    apart = ScalingPolicy(Targets(), pace, pace)
    jointly = ScalingPolicy(Targets(), pace, pace, Joint(Budget(gpus)))
    begin = gpus // 4
    return [
        Candidate("pool rules (llm-d)", begin, begin, lambda: PoolRules(gpus - 1)),
        Candidate("Segue, each pool", begin, begin, lambda: Policy(apart)),
        Candidate("Segue, joint", begin, begin, lambda: Policy(jointly)),
        Candidate("Segue, joint with flex", begin, begin, lambda: Policy(jointly, flex=True)),
    ]


def _resize(fleet: Fleet, pool: Pool, workers: int) -> None:
    present = len(fleet.present(pool))
    for _ in range(present - workers):
        fleet.let_go(pool)
    for _ in range(workers - present):
        if not fleet.add(pool):
            return
