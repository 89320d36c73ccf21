"""Carries out what the choice runs decide: chooses workers for them, tells workers, clients and the load figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from segue.base.errors import DeadlineExceeded, Unavailable
from segue.kv_transfer.held_ticket import HeldTicket
from segue.router.lifecycle.actions import Abort, Action, Emit, Fail, Release, Replan, Send
from segue.router.lifecycle.charges import Charges
from segue.router.lifecycle.choice_run import ChoiceRun, ChoiceSpec, Phase
from segue.router.lifecycle.continuation import ContinuationPolicy
from segue.router.lifecycle.interruptions import Interruptions, cause_of
from segue.router.lifecycle.legs import choice_sampling
from segue.router.lifecycle.request import Request
from segue.router.lifecycle.surroundings import Surroundings
from segue.router.lifecycle.telling import tell
from segue.router.lifecycle.token_streams import TokenStreams
from segue.router.lifecycle.waiting_room import WaitingRoom
from segue.router.limits import shown_s
from segue.router.models import ServedModel
from segue.router.planning.planner import Plan
from segue.router.queueing.admission import Admission
from segue.router.text.choice import ChoiceText
from segue.router.workers.fleet import FleetSnapshot
from segue.router.workers.links import WorkerLinks


class Conductor:
    """The answers that run, from a request's turn to its end.

    ``waiting`` is where requests wait for their turn; ``streams`` are the decode legs that give tokens.
    """

    def __init__(
        self,
        links: WorkerLinks,
        model: Callable[[str], ServedModel],
        around: Surroundings,
        continuation: ContinuationPolicy,
        admission: Admission,
    ) -> None:
        self.waiting = WaitingRoom(links, admission, self._begin, continuation.patience_s, self._on_decode)
        self.streams = TokenStreams()
        self._links = links
        self._model = model
        self._around = around
        self._interruptions = Interruptions(links, continuation, around, self._go_on)
        self._charges = Charges(links)
        self._runs: dict[str, tuple[Request, ChoiceRun]] = {}  # By the id of their present leg.

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[tuple[Request, ChoiceRun]]:
        return iter(list(self._runs.values()))

    def answer_of(self, leg_id: str) -> tuple[Request, ChoiceRun] | None:
        """Whose present leg this is; None if it is over, or an earlier one."""
        return self._runs.get(leg_id)

    def held(self) -> Iterator[HeldTicket]:
        """Tickets of KV caches that nobody is known to have consumed."""
        return (run.held for _, run in self._runs.values() if run.held is not None)

    def do(self, request: Request, run: ChoiceRun, actions: list[Action]) -> None:
        for action in actions:
            if request.over:
                # An earlier action ended it; what workers hold must be freed all the same.
                if isinstance(action, Abort | Release):
                    tell(self._links, action)
                continue
            match action:
                case Emit():
                    request.emit(run, action)
                case Send():
                    self._send(request, run, action)
                case Fail(error=error):
                    request.fail(error)
                case Replan():
                    self._replan(request, run, action)
                case _:
                    tell(self._links, action)

    def settle(self, run: ChoiceRun) -> None:
        """Take a run off its workers' load figures."""
        self._charges.settle(run)
        self._around.placement.prefilled(run.run_id)
        self.waiting.computed(run.run_id)

    def expire(self, request: Request) -> None:
        """Its deadline has passed."""
        timeout_s = request.generation.timeout_s
        if not request.runs:
            message = f"the request's {shown_s(timeout_s)} s passed before a worker had room for it"
            request.fail(DeadlineExceeded(message))
        for run in request.runs:
            self.do(request, run, run.on_deadline(timeout_s))

    def end(self, request: Request) -> None:
        """Abort what still runs of it."""
        self.waiting.leave(request.request_id)
        for run in request.runs:
            actions = run.cancel()
            self._runs.pop(run.leg_id, None)
            self.streams.close(run)
            self.settle(run)
            for action in actions:
                tell(self._links, action)

    def _on_decode(self, fleet: FleetSnapshot, prompt_tokens: int) -> bool:
        return self._around.placement.on_decode(fleet, prompt_tokens)

    def _begin(self, request: Request, fleet: FleetSnapshot) -> None:
        """Its turn has come, by this look at the fleet."""
        try:
            plans = [
                self._place(request, index, self._links.snapshot() if index else fleet)  # Each sees those before it.
                for index in range(request.generation.n)
            ]
        except Unavailable as error:
            request.fail(error)
            return
        for run, first in zip(request.runs, plans, strict=True):
            if not request.over:
                self._send_on(request, run, first)

    def _place(self, request: Request, index: int, fleet: FleetSnapshot) -> Plan:
        """Add one of the n answers to a request, and say which workers are the best now. Raises Unavailable."""
        generation, placement = request.generation, self._around.placement
        codec = self._model(generation.model).codec
        sampling = choice_sampling(generation.sampling, index)
        spec = ChoiceSpec(
            run_id=request.run_id(index),
            index=index,
            prompt=request.prompt,
            sampling=sampling,
            deadline_s=request.accepted_s + generation.timeout_s,
            priority=self.waiting.engine_priority(generation),
        )
        if request.routed is None:
            request.routed = placement.prompt(request.prompt, sampling.max_tokens)
        ask = placement.ask(request.routed)
        found = placement.plan(fleet, ask)
        if generation.explain and index == 0:
            request.decision = placement.explain(fleet, ask, found)
        text = ChoiceText(codec, stops=sampling.stop, min_tokens=sampling.min_tokens, prompt=spec.prompt)
        run = ChoiceRun(spec, text, request.accepted_s)
        request.runs.append(run)
        self._charges.charge(run, found)
        return found

    def _go_on(self, request: Request, run: ChoiceRun, found: Plan) -> None:
        """After an interruption."""
        self._charges.charge(run, found)
        self._send_on(request, run, found)

    def _send_on(self, request: Request, run: ChoiceRun, found: Plan) -> None:
        self._runs.pop(run.leg_id, None)
        if request.routed is not None:
            self._around.placement.sent(run.run_id, request.routed, found)
        actions = run.go_on(found, time.monotonic())
        self._runs[run.leg_id] = request, run
        self.do(request, run, actions)

    def _send(self, request: Request, run: ChoiceRun, action: Send) -> None:
        decodes = run.phase is Phase.DECODE
        request.trace.sent(run.run_id, run.phase.value, action.worker_id, action.submit)
        if decodes and (link := self._links.get(action.worker_id)) is not None:
            action.submit.stream = self.streams.open(link, request, run)
        if not tell(self._links, action):
            self.do(request, run, run.on_worker_lost(action.worker_id, "has left"))
        elif decodes:
            self._charges.prefilled(run)
            if run.plan.prefill_id is not None:
                self._around.placement.prefilled(run.run_id)
            self.waiting.computed(run.run_id)

    def _replan(self, request: Request, run: ChoiceRun, interrupted: Replan) -> None:
        self._charges.settle(run)
        self._around.observer.on_interrupted(request.slo_class, cause_of(interrupted))
        self._interruptions.begin(request, run, interrupted)
