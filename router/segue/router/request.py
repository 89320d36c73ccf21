"""One generation between the choice runs that make its answers and the sink that takes them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from segue.base.errors import SegueError
from segue.base.ids import new_request_id
from segue.proto.inference_pb2 import GenerateResponse, Usage
from segue.router.actions import Emit
from segue.router.choice_run import ChoiceRun
from segue.router.service import Generation, ResponseSink


class RequestOwner(Protocol):
    """Who runs a request."""

    def expire(self, request: Request) -> None:
        """Its deadline has passed."""

    def settle(self, run: ChoiceRun) -> None:
        """One of its answers is complete."""

    def end(self, request: Request) -> None:
        """It is over, however it ended: free what still runs of it and forget it."""


class Request:
    """One generation that runs; also its :class:`~segue.router.service.Handle`."""

    def __init__(self, owner: RequestOwner, generation: Generation, sink: ResponseSink) -> None:
        self.request_id = new_request_id()
        self.generation = generation
        self.slo_class = ""  # Requests have no classes yet.
        self.runs: list[ChoiceRun] = []
        self.over = False
        self._owner = owner
        self._sink = sink
        self._unfinished = generation.n
        self._unechoed = set(range(generation.n)) if generation.echo else set[int]()
        self._timer: asyncio.TimerHandle | None = None

    def start_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.generation.timeout_s, self._owner.expire, self)

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
            self._owner.settle(run)
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
        self._owner.end(self)
