"""One process's share of a load test."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from segue.loadtest.generator.progress import OnProgress, Progress
from segue.loadtest.generator.pulse import Pulse
from segue.loadtest.measure.lag import GeneratorLoad
from segue.loadtest.measure.outcome import Failure, Outcome
from segue.loadtest.target.base import Clock, Target
from segue.loadtest.workload.shape import RequestShape

_PROGRESS_PERIOD_S = 0.2
# Requests made ahead of their time: enough for a burst, and no more memory than this.
_AHEAD_REQUESTS = 2000
_AHEAD_TOKENS = 4_000_000


@dataclass(frozen=True, slots=True)
class Pace:
    """``concurrency`` 0: an open loop, by the requests' times. Nothing is sent after ``max_duration_s`` (0: no end);
    what is under way then is waited for, ``drain_s`` at most. A closed loop answers its first ``warm_up_requests``
    before it sends the others, which would else share the clients with them."""

    concurrency: int = 0
    max_duration_s: float = 0.0
    drain_s: float = 600.0
    warm_up_requests: int = 0


class _Ahead:
    """Prepared requests, made while there is time, so that sending one costs next to nothing."""

    def __init__(self, shapes: Iterator[RequestShape], target: Target) -> None:
        self._shapes = shapes
        self._target = target
        self._ready: deque[tuple[RequestShape, Any]] = deque()
        self._tokens = 0
        while len(self._ready) < _AHEAD_REQUESTS and self._tokens < _AHEAD_TOKENS and self._make():
            pass

    def take(self) -> tuple[RequestShape, Any] | None:
        if not self._ready and not self._make():
            return None
        shape, prepared = self._ready.popleft()
        self._tokens -= shape.prompt_tokens
        return shape, prepared

    def refill(self) -> None:
        """After one has been taken."""
        if self._tokens < _AHEAD_TOKENS:
            self._make()

    def _make(self) -> bool:
        shape = next(self._shapes, None)
        if shape is None:
            return False
        self._ready.append((shape, self._target.prepare(shape)))
        self._tokens += shape.prompt_tokens
        return True


class Generator:
    """Sends the requests of an iterator and keeps what became of each."""

    def __init__(self, target: Target, pace: Pace) -> None:
        self._target = target
        self._pace = pace
        self._outcomes: list[Outcome] = []
        self._sent = self._ended = self._failed = self._tokens = 0
        self._zero_s = 0.0

    async def run(
        self, shapes: Iterator[RequestShape], start: Callable[[], float], on_progress: OnProgress
    ) -> tuple[list[Outcome], GeneratorLoad]:
        """``start`` is called when the first requests have been made ahead; it gives the load's zero on
        ``time.monotonic``, the same for all processes."""
        ahead = _Ahead(shapes, self._target)
        self._zero_s = start()
        await asyncio.sleep(max(0.0, -self._clock()))
        telling = asyncio.create_task(self._tell(on_progress), name="progress")
        try:
            with Pulse() as pulse:
                if self._pace.concurrency:
                    await self._closed_loop(ahead)
                else:
                    await self._open_loop(ahead)
        finally:
            telling.cancel()
            await asyncio.gather(telling, return_exceptions=True)
        on_progress(self._progress())
        return self._outcomes, pulse.load

    def _clock(self) -> float:
        return time.monotonic() - self._zero_s

    async def _open_loop(self, ahead: _Ahead) -> None:
        """Each request at its time, whatever became of those before it."""
        flying: set[asyncio.Task[None]] = set()
        limit_s = self._pace.max_duration_s
        try:
            while (taken := ahead.take()) is not None:
                shape, prepared = taken
                if limit_s and shape.at_s >= limit_s:
                    break
                if (wait_s := shape.at_s - self._clock()) > 0:
                    await asyncio.sleep(wait_s)
                task = asyncio.create_task(self._one(shape, prepared, shape.at_s))
                flying.add(task)
                task.add_done_callback(flying.discard)
                ahead.refill()
                if wait_s <= 0:
                    await asyncio.sleep(0)  # A burst must not keep answers from being read.
            await self._drain(flying)
        finally:
            await _give_up(flying)

    async def _closed_loop(self, ahead: _Ahead) -> None:
        """``concurrency`` clients; each sends when its last answer is whole. What is intended is what is done."""
        if self._pace.warm_up_requests:
            await self._clients(ahead, self._pace.warm_up_requests)
        await self._clients(ahead, None)

    async def _clients(self, ahead: _Ahead, count: int | None) -> None:
        """Until ``count`` requests are answered, or all of them, or the time is up."""
        limit_s = self._pace.max_duration_s
        left = iter(range(count)) if count is not None else iter(int, 1)  # The second one never ends.

        async def client() -> None:
            for _ in left:
                if (limit_s and self._clock() >= limit_s) or (taken := ahead.take()) is None:
                    return
                await self._one(*taken, self._clock())
                ahead.refill()

        clients = {asyncio.create_task(client()) for _ in range(self._pace.concurrency)}
        try:
            if limit_s:
                await asyncio.wait(clients, timeout=max(0.0, limit_s - self._clock()))
                await self._drain(clients)
            else:
                await asyncio.gather(*clients)
        finally:
            await _give_up(clients)

    async def _drain(self, flying: set[asyncio.Task[None]]) -> None:
        left = {task for task in flying if not task.done()}
        if left:
            await asyncio.wait(left, timeout=self._pace.drain_s)

    async def _one(self, shape: RequestShape, prepared: Any, intended_s: float) -> None:
        clock: Clock = self._clock
        outcome = Outcome(shape.index, shape.slo_class, intended_s, clock(), shape.prompt_tokens, shape.output_tokens)
        self._outcomes.append(outcome)
        self._sent += 1
        try:
            await self._target.send(prepared, outcome, clock)
        except asyncio.CancelledError:
            outcome.fail(Failure.TIMEOUT, "not answered when the load test ended")
            raise
        finally:
            outcome.close(clock())
            self._ended += 1
            self._failed += not outcome.ok
            self._tokens += outcome.output_tokens

    async def _tell(self, on_progress: OnProgress) -> None:
        while True:
            on_progress(self._progress())
            await asyncio.sleep(_PROGRESS_PERIOD_S)

    def _progress(self) -> Progress:
        return Progress(self._sent, self._ended, self._failed, self._tokens, self._clock())


async def _give_up(tasks: set[asyncio.Task[None]]) -> None:
    left = set(tasks)
    for task in left:
        task.cancel()
    for ended in await asyncio.gather(*left, return_exceptions=True):
        if isinstance(ended, Exception) and not isinstance(ended, asyncio.CancelledError):
            raise ended
