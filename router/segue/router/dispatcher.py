"""Runs generations: carries out what the choice runs decide, and brings them what the workers say."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from segue.base.errors import Overloaded, SegueError, Unavailable
from segue.base.ids import new_request_id
from segue.base.logging import get_logger
from segue.proto.inference_pb2 import GenerateResponse, Usage
from segue.proto.worker_pb2 import RequestOutput
from segue.router.choice_run import Abort, Action, ChoiceRun, ChoiceSpec, Emit, Fail, Phase, Release, Send
from segue.router.legs import choice_sampling
from segue.router.planner import plan
from segue.router.service import Generation, ResponseSink, ServedModel
from segue.router.text.choice import ChoiceText
from segue.router.worker_links import WorkerLink, WorkerLinks

log = get_logger("router")


class Dispatcher:
    """The core behind both edges: a :class:`~segue.router.service.GenerationService` over the attached workers."""

    def __init__(self, links: WorkerLinks, model: Callable[[str], ServedModel], max_concurrent_requests: int) -> None:
        self._links = links
        self._model = model
        self._max_concurrent_requests = max_concurrent_requests
        self._requests: dict[str, _Request] = {}
        self._runs: dict[str, tuple[_Request, ChoiceRun]] = {}
        # By run and worker: whose load figures a run counts in. A link of its own, not an id: a worker that attaches
        # again begins with none of its earlier life's requests.
        self._charged: dict[tuple[str, str], WorkerLink] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    def start(self, generation: Generation, sink: ResponseSink) -> _Request:
        if self._draining:
            raise Unavailable("this router is shutting down; send the request to another one")
        if len(self._requests) >= self._max_concurrent_requests:
            raise Overloaded(
                f"{len(self._requests)} requests are running, which is this router's limit; try again in a second"
            )
        now_s = time.monotonic()
        request = _Request(self, generation, sink)
        for index in range(generation.n):
            run = self._place(request, index, now_s)
            request.runs.append(run)
            self._runs[run.run_id] = (request, run)
        self._requests[request.request_id] = request
        self._idle.clear()
        request.start_timer()
        for run in request.runs:
            self._do(request, run, run.begin(now_s))
        return request

    # From the workers

    def on_outputs(self, link: WorkerLink, outputs: Iterable[RequestOutput]) -> None:
        now_s = time.monotonic()
        for output in outputs:
            known = self._runs.get(output.request_id)
            if known is None:
                if output.HasField("offer"):
                    link.release(output.offer, "cancelled")
                continue
            request, run = known
            self._do(request, run, run.on_output(link.worker_id, output, now_s))

    def on_worker_lost(self, link: WorkerLink) -> None:
        # All runs first: the first failure ends its whole request, and its other runs would forget their tickets.
        lost = [(request, run, run.on_worker_lost(link.worker_id)) for request, run in self._runs.values()]
        for request, run, actions in lost:
            self._do(request, run, actions)

    # From requests

    def end(self, request: _Request) -> None:
        """Abort what still runs of a request and forget it."""
        if self._requests.pop(request.request_id, None) is None:
            return
        for run in request.runs:
            actions = run.cancel()
            del self._runs[run.run_id]
            self.settle(run)
            for action in actions:
                self._act(action)
        if not self._requests:
            self._idle.set()

    def settle(self, run: ChoiceRun) -> None:
        """Take a run off its workers' load figures."""
        self._discharge(run, run.plan.prefill_id)
        self._discharge(run, run.plan.decode_id)

    def expire(self, request: _Request) -> None:
        for run in request.runs:
            self._do(request, run, run.on_deadline(request.generation.timeout_s))

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

    @property
    def running_requests(self) -> int:
        return len(self._requests)

    def _do(self, request: _Request, run: ChoiceRun, actions: list[Action]) -> None:
        for action in actions:
            if request.over:
                # An earlier action ended it; what workers hold must be freed all the same.
                if isinstance(action, Abort | Release):
                    self._act(action)
            elif isinstance(action, Emit):
                request.emit(run, action)
            elif isinstance(action, Fail):
                request.fail(action.error)
            elif not self._act(action):
                if isinstance(action, Send):
                    self._do(request, run, run.on_worker_lost(action.worker_id))
            elif isinstance(action, Send) and run.phase is Phase.DECODE:
                self._discharge(run, run.plan.prefill_id)

    def _act(self, action: Action) -> bool:
        """Tell a worker; False if it is gone."""
        if isinstance(action, Emit | Fail):
            return True
        link = self._links.get(action.worker_id)
        if link is None:
            return False
        match action:
            case Send(submit=submit):
                link.submit(submit)
            case Abort(request_id=request_id):
                link.abort(request_id)
            case Release(ticket=ticket):
                link.release(ticket, "cancelled")
        return True

    def _place(self, request: _Request, index: int, now_s: float) -> ChoiceRun:
        """One of the n answers, on the workers that are least loaded now. Raises Unavailable."""
        generation = request.generation
        codec = self._model(generation.model).codec
        sampling = choice_sampling(generation.sampling, index)
        spec = ChoiceSpec(
            run_id=f"{request.request_id}-{index}",
            index=index,
            prompt=generation.prompt,
            sampling=sampling,
            plan=plan(self._links.snapshot()),
            deadline_s=now_s + generation.timeout_s,
        )
        for worker_id in (spec.plan.prefill_id, spec.plan.decode_id):
            if (link := self._links.get(worker_id)) is not None:
                link.assigned_requests += 1
                link.assigned_tokens += len(spec.prompt)
                self._charged[spec.run_id, worker_id] = link
        text = ChoiceText(codec, stops=sampling.stop, min_tokens=sampling.min_tokens, prompt=spec.prompt)
        return ChoiceRun(spec, text, now_s)

    def _discharge(self, run: ChoiceRun, worker_id: str) -> None:
        link = self._charged.pop((run.run_id, worker_id), None)
        if link is not None:
            link.assigned_requests -= 1
            link.assigned_tokens -= run.prompt_tokens


class _Request:
    """One generation that runs; also its :class:`~segue.router.service.Handle`."""

    def __init__(self, dispatcher: Dispatcher, generation: Generation, sink: ResponseSink) -> None:
        self.request_id = new_request_id()
        self.generation = generation
        self.runs: list[ChoiceRun] = []
        self.over = False
        self._dispatcher = dispatcher
        self._sink = sink
        self._unfinished = generation.n
        self._unechoed = set(range(generation.n)) if generation.echo else set[int]()
        self._timer: asyncio.TimerHandle | None = None

    def start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.generation.timeout_s, self._dispatcher.expire, self)

    def cancel(self) -> None:
        if not self.over:
            self._end()

    def emit(self, run: ChoiceRun, action: Emit) -> None:
        delta = action.delta
        if delta.index in self._unechoed:
            self._unechoed.discard(delta.index)
            delta.text = (self.generation.prompt_text or "") + delta.text
        response = GenerateResponse(
            request_id=self.request_id,
            request_label=self.generation.label or "",
            model=self.generation.model,
            choices=(delta,),
        )
        if delta.finish_reason:
            self._unfinished -= 1
            self._dispatcher.settle(run)
        if not self._unfinished:
            response.usage.CopyFrom(self._usage())
            first = self.runs[0]
            response.timings.CopyFrom(first.timings.message(first.path, first.output_tokens))
            self._end()
        self._sink.on_delta(response)

    def fail(self, error: SegueError) -> None:
        if not self.over:
            self._end()
            self._sink.on_error(error)

    def _usage(self) -> Usage:
        return Usage(
            prompt_tokens=len(self.generation.prompt),
            cached_prompt_tokens=self.runs[0].timings.cached_prompt_tokens,
            output_tokens=sum(run.output_tokens for run in self.runs),
        )

    def _end(self) -> None:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        self._dispatcher.end(self)
