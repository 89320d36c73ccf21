"""What follows when an answer has lost its worker: tell of it, and look for others until patience is at its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass

from segue.base.errors import Unavailable
from segue.base.logging import get_logger
from segue.router.lifecycle.actions import Replan
from segue.router.lifecycle.choice_run import ChoiceRun
from segue.router.lifecycle.continuation import ContinuationPolicy, GiveUp, Interruption, Resume, Wait
from segue.router.lifecycle.placement import Prompt
from segue.router.lifecycle.records import Interrupted
from segue.router.lifecycle.request import Request
from segue.router.lifecycle.surroundings import Surroundings
from segue.router.planning.planner import Plan
from segue.router.workers.links import WorkerLinks

log = get_logger("router")


@dataclass(frozen=True, slots=True)
class _Interrupted:
    """``behind`` is the prompt with what has been answered of it, of which some worker may have the blocks."""

    request: Request
    run: ChoiceRun
    by: Replan
    since_s: float
    behind: Prompt


class Interruptions:
    """``go_on`` is called with the plan on which an answer continues."""

    def __init__(
        self,
        links: WorkerLinks,
        policy: ContinuationPolicy,
        around: Surroundings,
        go_on: Callable[[Request, ChoiceRun, Plan], None],
    ) -> None:
        self._links = links
        self._around = around
        self._policy = policy
        self._go_on = go_on

    def begin(self, request: Request, run: ChoiceRun, by: Replan) -> None:
        """Take an answer that was interrupted just now."""
        now_s = time.monotonic()
        if by.at_fault:
            self._links.circuits.failed(by.worker_id, now_s)
        request.trace.interrupted(run.run_id, cause_of(by), str(by.error))
        log.warning(
            "request_interrupted",
            request_id=request.request_id,
            worker_id=by.worker_id,
            reason=str(by.error),
            output_tokens=run.output_tokens,
        )
        placement = self._around.placement
        routed = request.routed or placement.prompt(request.prompt, run.left_tokens)
        behind = placement.longer(routed, request.prompt, run.behind, run.left_tokens)
        self._look(_Interrupted(request, run, by, now_s, behind), looks=0)

    def _look(self, interrupted: _Interrupted, looks: int) -> None:
        """Find workers; look again until there are some or patience is at its end."""
        request, run, by = interrupted.request, interrupted.run, interrupted.by
        if request.over:
            return
        interruption = Interruption(
            times=run.timings.interruptions,
            waited_s=time.monotonic() - interrupted.since_s,
            looks=looks,
            left=frozenset({by.worker_id}),
        )
        placement = self._around.placement
        ask = placement.ask(interrupted.behind)  # Caches change while it waits.
        match self._policy.decide(interruption, self._links.snapshot(), ask, placement.policy):
            case Resume(plan=found):
                self._go_on(request, run, found)
            case Wait(seconds=seconds):
                asyncio.get_running_loop().call_later(seconds, self._look, interrupted, looks + 1)
            case GiveUp(why=why):
                request.fail(type(by.error)(f"{by.error}; {why}"))


def cause_of(interrupted: Replan) -> Interrupted:
    """Why, in one word."""
    if not interrupted.at_fault:
        return "moved"
    return "unavailable" if isinstance(interrupted.error, Unavailable) else "failed"
