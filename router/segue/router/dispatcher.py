"""Runs generations: carries out what the choice runs decide, and brings them what the workers say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager

from segue.base.errors import DeadlineExceeded, Overloaded, SegueError, Unavailable
from segue.base.logging import get_logger
from segue.base.tracing import Tracing
from segue.proto.inference_pb2 import Cost, Usage
from segue.proto.sampling_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP
from segue.proto.worker_pb2 import KvEvents, RequestOutput, Role, StepTokens, WorkerState
from segue.router.accounting.prices import PriceTable
from segue.router.actions import Abort, Action, Emit, Fail, Release, Replan, Send
from segue.router.admission import Admission, Demand
from segue.router.charges import Charges
from segue.router.choice_run import ChoiceRun, ChoiceSpec, Phase
from segue.router.continuation import ContinuationPolicy
from segue.router.fleet import FleetSnapshot
from segue.router.interruptions import Interruptions, cause_of
from segue.router.legs import choice_sampling
from segue.router.limits import shown_s
from segue.router.placement import Placement
from segue.router.planner import Plan
from segue.router.records import RequestRecord, RouterObserver
from segue.router.request import Request
from segue.router.request_trace import open_trace
from segue.router.service import Generation, ResponseSink, ServedModel
from segue.router.telling import renew_leases, tell
from segue.router.text.choice import ChoiceText
from segue.router.token_streams import TokenStreams
from segue.router.waiting_room import WaitingRoom, require_decode
from segue.router.worker_links import WorkerLink, WorkerLinks

log = get_logger("router")

_RENEWAL_CHECK_S = 0.5


class Dispatcher:
    """The core behind both edges: a :class:`~segue.router.service.GenerationService` over the attached workers."""

    def __init__(
        self,
        links: WorkerLinks,
        model: Callable[[str], ServedModel],
        max_concurrent_requests: int,
        continuation: ContinuationPolicy | None = None,
        admission: Admission | None = None,
    ) -> None:
        self._links = links
        self.placement = Placement(links)  # Whoever makes the process may set another before requests come.
        self._model = model
        self._max_concurrent_requests = max_concurrent_requests
        continuation = continuation or ContinuationPolicy()
        self._interruptions = Interruptions(links, continuation, self._go_on)
        self._admission = admission or Admission()
        self.observer = RouterObserver()  # Whoever makes the process sets it before requests come.
        self.prices: PriceTable | None = None  # Likewise.
        self._waiting = WaitingRoom(links, self._admission, self._begin, continuation.patience_s)
        self.tracing: Tracing | None = None  # Likewise.
        self._requests: dict[str, Request] = {}
        self._runs: dict[str, tuple[Request, ChoiceRun]] = {}  # By the id of their present leg.
        self._streams = TokenStreams()
        self._charges = Charges(links)
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    def admit(self, demand: Demand) -> None:
        with self._refusals(demand):
            self._check(demand, self._links.snapshot())

    def start(self, generation: Generation, sink: ResponseSink) -> Request:
        demand, fleet = generation.demand(), self._links.snapshot()
        request = Request(self, generation, sink)
        with self._refusals(demand):
            self._check(demand, fleet)
            require_decode(fleet)
        request.trace = open_trace(self.tracing, generation.trace, request.request_id)
        self._requests[request.request_id] = request
        self._idle.clear()
        self.observer.on_accepted(request.slo_class, demand.prompt_tokens)
        request.start_timer()
        self._waiting.enter(request, fleet)
        return request

    def _check(self, demand: Demand, fleet: FleetSnapshot) -> None:
        if self._draining:
            raise Unavailable("this router is shutting down; send the request to another one")
        if len(self._requests) >= self._max_concurrent_requests:
            raise Overloaded(
                f"{len(self._requests)} requests are running or waiting, which is this router's limit; try again in a "
                "second"
            )
        self._waiting.check(demand, fleet)

    def _begin(self, request: Request) -> None:
        """Its turn has come."""
        try:
            plans = [self._place(request, index) for index in range(request.generation.n)]
        except Unavailable as error:
            request.fail(error)
            return
        for run, first in zip(request.runs, plans, strict=True):
            if not request.over:
                self._go_on(request, run, first)

    # From the workers

    def on_tokens(self, link: WorkerLink, tokens: StepTokens) -> None:
        observer = None if type(self.observer) is RouterObserver else self.observer
        self._streams.push(link, tokens, time.monotonic(), lambda output: self.on_outputs(link, (output,)), observer)

    def on_outputs(self, link: WorkerLink, outputs: Iterable[RequestOutput]) -> None:
        now_s = time.monotonic()
        for output in outputs:
            if output.finish_reason in {FINISH_REASON_STOP, FINISH_REASON_LENGTH}:
                self._links.circuits.succeeded(link.worker_id)
            known = self._runs.get(output.request_id)
            if known is None:
                if output.HasField("offer"):
                    link.release(output.offer, "cancelled")
                continue
            request, run = known
            if output.token_ids:
                link.meter.began(output.request_id, now_s)
            if output.finish_reason:
                link.meter.produced(output.request_id, self._streams.tokens_of(run))
            if output.HasField("transfer"):
                self.observer.on_transfer(request.slo_class, output.transfer)
                request.trace.transferred(run.run_id, output.transfer)
                if (producer_id := run.producer_id) is not None:
                    self.placement.on_transfer(producer_id, link.worker_id, output.transfer)
                if output.transfer.error:
                    self._on_transfer_error(request.request_id, run, output, now_s)
            had, since_s = run.output_tokens, run.timings.last_s
            actions = run.on_output(link.worker_id, output, now_s)
            if run.output_tokens > had:
                self._tell_tokens(request, run, had, (link.worker_id, now_s - since_s))
            self._do(request, run, actions)
        self._waiting.look_soon()

    def on_kv_events(self, link: WorkerLink, events: KvEvents) -> None:
        self.placement.on_kv_events(link, events)

    def on_worker_lost(self, link: WorkerLink) -> None:
        self.placement.on_worker_lost(link)
        # All runs first: the first failure ends its whole request, and its other runs would forget their tickets.
        lost = [(request, run, run.on_worker_lost(link.worker_id)) for request, run in self._runs.values()]
        for request, run, actions in lost:
            self._do(request, run, actions)

    def on_worker_state(self, link: WorkerLink) -> None:
        """Move running requests off decode workers that drain, as soon as there is another one."""
        self._waiting.look_soon()
        decode = [link for link in self._links if link.register.role == Role.ROLE_DECODE]
        draining = {link.worker_id for link in decode if link.status.state == WorkerState.WORKER_STATE_DRAINING}
        if not draining or not any(link.ready for link in decode):
            return
        for request, run in list(self._runs.values()):
            if run.worker_id in draining:
                self._do(request, run, run.move())

    # From requests

    def end(self, request: Request) -> None:
        """Abort what still runs of a request and forget it."""
        if self._requests.pop(request.request_id, None) is None:
            return
        self._waiting.leave(request.request_id)
        for run in request.runs:
            actions = run.cancel()
            self._runs.pop(run.leg_id, None)
            self._streams.close(run)
            self.settle(run)
            for action in actions:
                self._act(action)
        if not self._requests:
            self._idle.set()

    def settle(self, run: ChoiceRun) -> None:
        """Take a run off its workers' load figures."""
        self._charges.settle(run)
        self.placement.prefilled(run.run_id)
        self._waiting.computed(run.run_id)

    def expire(self, request: Request) -> None:
        timeout_s = request.generation.timeout_s
        if not request.runs:
            request.fail(
                DeadlineExceeded(f"the request's {shown_s(timeout_s)} s passed before a worker had room for it")
            )
        for run in request.runs:
            self._do(request, run, run.on_deadline(timeout_s))

    def cost(self, model: str, usage: Usage) -> Cost | None:
        return None if self.prices is None else self.prices.cost(model, usage)

    def finished(self, record: RequestRecord) -> None:
        self.observer.on_finished(record)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests and let running ones finish; end with an error those that don't in time."""
        self._draining = True
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("drain_timed_out", timeout_s=timeout_s, requests=len(self._requests))
            for request in list(self._requests.values()):
                request.fail(Unavailable("this router is shutting down; send the request to another one"))

    async def keep_leases(self) -> None:
        """Renew, for as long as their requests live, the leases of KV caches that nobody has claimed. Never returns."""
        while True:
            await asyncio.sleep(_RENEWAL_CHECK_S)
            self.renew(time.monotonic())

    def renew(self, now_s: float) -> None:
        renew_leases(self._links, (run.held for _, run in self._runs.values() if run.held is not None), now_s)

    @property
    def running_requests(self) -> int:
        """With those that wait."""
        return len(self._requests)

    @property
    def requests(self) -> Collection[Request]:
        return self._requests.values()

    @property
    def draining(self) -> bool:
        return self._draining

    @property
    def waiting(self) -> WaitingRoom:
        """What waits for a worker, for whoever reports or scales."""
        return self._waiting

    @contextmanager
    def _refusals(self, demand: Demand) -> Iterator[None]:
        """Let the observer know of them."""
        try:
            yield
        except SegueError as error:
            self.observer.on_refused(demand.tenant, demand.slo_class, error.code)
            raise

    def _do(self, request: Request, run: ChoiceRun, actions: list[Action]) -> None:
        for action in actions:
            if request.over:
                # An earlier action ended it; what workers hold must be freed all the same.
                if isinstance(action, Abort | Release):
                    self._act(action)
                continue
            match action:
                case Emit():
                    request.emit(run, action)
                case Fail(error=error):
                    request.fail(error)
                case Replan():
                    self._replan(request, run, action)
                case Send(worker_id=worker_id, submit=submit):
                    request.trace.sent(run.run_id, run.phase.value, worker_id, submit)
                    if run.phase is Phase.DECODE and (link := self._links.get(worker_id)) is not None:
                        submit.stream = self._streams.open(link, request, run)
                    if not self._act(action):
                        self._do(request, run, run.on_worker_lost(worker_id, "has left"))
                    elif run.phase is Phase.DECODE:
                        self._charges.prefilled(run)
                        if run.plan.prefill_id is not None:
                            self.placement.prefilled(run.run_id)
                        self._waiting.computed(run.run_id)
                case _:
                    self._act(action)

    def _act(self, action: Action) -> bool:
        return tell(self._links, action)

    def _place(self, request: Request, index: int) -> Plan:
        """Add one of the n answers to a request, and say which workers are the best now. Raises Unavailable."""
        generation = request.generation
        codec = self._model(generation.model).codec
        sampling = choice_sampling(generation.sampling, index)
        spec = ChoiceSpec(
            run_id=request.run_id(index),
            index=index,
            prompt=request.prompt,
            sampling=sampling,
            deadline_s=request.accepted_s + generation.timeout_s,
            priority=self._waiting.engine_priority(generation),
        )
        if request.routed is None:
            request.routed = self.placement.prompt(request.prompt, sampling.max_tokens)
        fleet, ask = self._links.snapshot(), self.placement.ask(request.routed)
        found = self.placement.plan(fleet, ask)
        if generation.explain and index == 0:
            request.decision = self.placement.explain(fleet, ask, found)
        text = ChoiceText(codec, stops=sampling.stop, min_tokens=sampling.min_tokens, prompt=spec.prompt)
        run = ChoiceRun(spec, text, request.accepted_s)
        request.runs.append(run)
        self._charges.charge(run, found)
        return found

    def _go_on(self, request: Request, run: ChoiceRun, found: Plan) -> None:
        self._runs.pop(run.leg_id, None)
        self._charges.charge(run, found)
        if request.routed is not None:
            self.placement.sent(run.run_id, request.routed, found)
        actions = run.go_on(found, time.monotonic())
        self._runs[run.leg_id] = request, run
        self._do(request, run, actions)

    def _replan(self, request: Request, run: ChoiceRun, interrupted: Replan) -> None:
        self._charges.settle(run)
        self.observer.on_interrupted(request.slo_class, cause_of(interrupted))
        self._interruptions.begin(request, run, interrupted)

    def _tell_tokens(self, request: Request, run: ChoiceRun, had: int, since: tuple[str, float]) -> None:
        """Of tokens that took the long way, from a worker, so many seconds after those before them. Several in one step
        come with no time between them."""
        worker_id, gap_s = since
        gaps_s = [gap_s, *[0.0] * (run.output_tokens - had - 1)]
        if not had:
            del gaps_s[0]
            if run.index == 0:
                request.trace.first_token()
                self.observer.on_first_token(request.slo_class, run.timings.first_token())
        if gaps_s:
            self.observer.on_tokens(request.slo_class, worker_id, gaps_s)

    def _on_transfer_error(self, request_id: str, run: ChoiceRun, output: RequestOutput, now_s: float) -> None:
        """Decode has computed the prompt again; whose fault was it?"""
        transfer = output.transfer
        log.warning(
            "kv_transfer_failed", request_id=request_id, leg=run.leg_id, error=transfer.error, corrupt=transfer.corrupt
        )
        unreachable = transfer.error.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED"))
        if run.held is not None and (transfer.corrupt or unreachable):
            self._links.circuits.failed(run.held.ticket.producer_id, now_s)
