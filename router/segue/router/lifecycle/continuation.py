"""When an answer whose worker was lost goes on elsewhere, and when it is given up. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from segue.base.errors import Unavailable
from segue.router.planning.disaggregation import Disaggregation
from segue.router.planning.planner import DEFAULT, NO_ASK, Plan, Policy, plan
from segue.router.planning.prediction import Ask
from segue.router.workers.fleet import FleetSnapshot

# What is to be computed again is the longest of prompts; and a ticket that is left needs no prefill.
_HAND_OFF = Disaggregation("always")


@dataclass(frozen=True, slots=True)
class Resume:
    plan: Plan


@dataclass(frozen=True, slots=True)
class Wait:
    seconds: float


@dataclass(frozen=True, slots=True)
class GiveUp:
    why: str


@dataclass(frozen=True, slots=True)
class Interruption:
    """An answer between two workers: how often that has happened to it, how long it has waited this time and how often
    it has looked, and the workers that it comes from."""

    times: int
    waited_s: float
    looks: int
    left: Collection[str]


@dataclass(frozen=True, slots=True)
class ContinuationPolicy:
    """``max_continuations`` bounds how many workers one answer may take along if it is the answer that kills them.

    ``patience_s`` is how long an answer waits for a pool that has no worker: enough for one to attach again.
    """

    max_continuations: int = 3
    patience_s: float = 10.0
    backoff_min_s: float = 0.02
    backoff_max_s: float = 0.5

    def decide(
        self, interruption: Interruption, fleet: FleetSnapshot, ask: Ask = NO_ASK, policy: Policy = DEFAULT
    ) -> Resume | Wait | GiveUp:
        """``ask`` is for the prompt with what has been answered of it, which is what the next worker is given; workers
        are weighed for it as ``policy`` weighs them for any prompt."""
        if interruption.times > self.max_continuations:
            return GiveUp(f"it was interrupted {interruption.times} times, {self.max_continuations} are made good")
        try:
            found = plan(fleet, ask, interruption.left, replace(policy, disaggregation=_HAND_OFF))
        except Unavailable as none:
            if interruption.waited_s >= self.patience_s:
                return GiveUp(f"after {interruption.waited_s:.1f} s {none}")
            return Wait(self._backoff_s(interruption.looks))
        same_again = found.prefill_id in interruption.left or found.decode_id in interruption.left
        if same_again and interruption.looks == 0:
            return Wait(self._backoff_s(interruption.times))  # Nobody else is there; not at once again.
        return Resume(found)

    def _backoff_s(self, looks: int) -> float:
        return float(min(self.backoff_min_s * 2**looks, self.backoff_max_s))
