"""One generation between the choice runs that make its answers and the sink that takes them."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from segue.base.errors import Cancelled, DeadlineExceeded, SegueError
from segue.base.ids import new_request_id
from segue.proto.inference_pb2 import Cost, GenerateResponse, RoutingDecision, Timings, Usage
from segue.router.lifecycle.actions import Emit
from segue.router.lifecycle.choice_run import ChoiceRun
from segue.router.lifecycle.placement import Prompt
from segue.router.lifecycle.records import RequestRecord
from segue.router.lifecycle.request_trace import UNTRACED
from segue.router.prompt_tokens import PromptTokens
from segue.router.service import DEAF, Generation, ResponseSink

# Ends that are the client's doing. What our faults end costs nothing.
_CHARGED = frozenset({"ok", Cancelled.default_code, DeadlineExceeded.default_code})


class RequestOwner(Protocol):
    """Who runs a request."""

    def expire(self, request: Request) -> None:
        """Its deadline has passed."""

    def settle(self, run: ChoiceRun) -> None:
        """One of its answers is complete."""

    def end(self, request: Request) -> None:
        """It is over, however it ended: free what still runs of it and forget it."""

    def cost(self, model: str, usage: Usage) -> Cost | None:
        """What this much use costs; None without prices."""

    def finished(self, record: RequestRecord) -> None:
        """What has become of a request."""


class Request:
    """One generation that runs; also its :class:`~segue.router.service.Handle`."""

    def __init__(self, owner: RequestOwner, generation: Generation, sink: ResponseSink) -> None:
        self.request_id = new_request_id()
        self.generation = generation
        self.slo_class = generation.slo_class
        self.accepted_s = time.monotonic()
        self.prompt = PromptTokens.of(generation.prompt)
        self.runs: list[ChoiceRun] = []
        self.over = False
        self.routed: Prompt | None = None
        self.decision: RoutingDecision | None = None  # If the client asked for it.
        self.trace = UNTRACED
        self._owner = owner
        self.sink = sink
        self._unfinished = generation.n
        self._unechoed = set(range(generation.n)) if generation.echo else set[int]()
        self._timer: asyncio.TimerHandle | None = None

    def run_id(self, index: int) -> str:
        """What one of the n answers is called in the ids of its legs."""
        return f"{self.request_id}-{index}"

    def start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.generation.timeout_s, self._owner.expire, self)

    def cancel(self) -> None:
        if not self.over:
            self._end(Cancelled.default_code)
            self._take_sink()

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
            self._owner.settle(run)
        sink = self.sink
        if not self._unfinished:
            record = self._end("ok")
            self._take_sink()
            response.usage.CopyFrom(record.usage)
            response.timings.CopyFrom(record.timings)
            if record.cost is not None:
                response.cost.CopyFrom(record.cost)
            if self.decision is not None:
                response.decision.CopyFrom(self.decision)
        sink.on_delta(response)

    def fail(self, error: SegueError) -> None:
        if not self.over:
            self._end(error.code)
            self._take_sink().on_error(error)

    def _take_sink(self) -> ResponseSink:
        """For the last thing that it is told. It has us as its handle: the two would keep each other, with all that the
        request is made of, until the garbage collector looks at what is old, which it seldom does."""
        sink, self.sink = self.sink, DEAF
        return sink

    def _end(self, outcome: str) -> RequestRecord:
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        self._owner.end(self)
        record = self._record(outcome)
        self.trace.end(record)
        self._owner.finished(record)
        return record

    def _record(self, outcome: str) -> RequestRecord:
        generation, usage = self.generation, self._usage()
        cost = self._owner.cost(generation.model, usage) if outcome in _CHARGED else None
        return RequestRecord(
            request_id=self.request_id,
            label=generation.label or "",
            model=generation.model,
            tenant=generation.tenant,
            slo_class=self.slo_class,
            outcome=outcome,
            usage=usage,
            timings=self._timings(),
            end_to_end_s=time.monotonic() - self.accepted_s,
            ended_unix_s=time.time(),
            cost=cost,
        )

    def _usage(self) -> Usage:
        """Of a request that never left the queue: nothing was computed for it."""
        if not self.runs:
            return Usage()
        return Usage(
            prompt_tokens=len(self.generation.prompt),
            cached_prompt_tokens=self.runs[0].timings.cached_prompt_tokens,
            output_tokens=sum(run.output_tokens for run in self.runs),
        )

    def _timings(self) -> Timings:
        if self.runs:
            first = self.runs[0]
            timings = first.timings.message(first.path, first.output_tokens)
        else:
            timings = Timings(queue_s=time.monotonic() - self.accepted_s)
        timings.slo_class = self.slo_class
        timings.trace_id = self.trace.trace_id
        return timings
