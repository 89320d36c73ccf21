"""The core behind both edges: takes requests in or refuses them, and knows those that it has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from segue.base.errors import Overloaded, SegueError, Unavailable
from segue.base.logging import get_logger
from segue.proto.inference_pb2 import Cost, Usage
from segue.router.lifecycle.choice_run import ChoiceRun
from segue.router.lifecycle.conductor import Conductor
from segue.router.lifecycle.continuation import ContinuationPolicy
from segue.router.lifecycle.placement import Placement
from segue.router.lifecycle.records import RequestRecord
from segue.router.lifecycle.request import Request
from segue.router.lifecycle.request_trace import open_trace
from segue.router.lifecycle.surroundings import Surroundings
from segue.router.lifecycle.telling import renew_leases
from segue.router.lifecycle.waiting_room import WaitingRoom, require_decode
from segue.router.lifecycle.worker_news import WorkerNews
from segue.router.models import ServedModel
from segue.router.queueing.admission import Admission, Demand
from segue.router.service import Generation, ResponseSink
from segue.router.workers.links import WorkerLinks

log = get_logger("router")

_RENEWAL_CHECK_S = 0.5


class Dispatcher:
    """A :class:`~segue.router.service.GenerationService` over the attached workers.

    ``news`` is whom the workers' hub is to tell; ``around`` may be changed before requests come.
    """

    def __init__(
        self,
        links: WorkerLinks,
        model: Callable[[str], ServedModel],
        max_concurrent_requests: int,
        continuation: ContinuationPolicy | None = None,
        admission: Admission | None = None,
    ) -> None:
        self.around = Surroundings(Placement(links))
        self.conductor = Conductor(
            links, model, self.around, continuation or ContinuationPolicy(), admission or Admission()
        )
        self.news = WorkerNews(links, self.conductor, self.around)
        self._links = links
        self._max_concurrent_requests = max_concurrent_requests
        self._requests: dict[str, Request] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._draining = False

    def admit(self, demand: Demand) -> None:
        try:
            self._check_open()
            self.waiting.check_untokenised(demand)
        except SegueError as error:
            self._refused(demand, error)
            raise

    def start(self, generation: Generation, sink: ResponseSink) -> Request:
        demand, fleet = generation.demand(), self._links.snapshot()
        request = Request(self, generation, sink)
        try:
            self._check_open()
            self.waiting.check(demand, fleet)
            require_decode(fleet)
        except SegueError as error:
            self._refused(demand, error)
            raise
        request.trace = open_trace(self.around.tracing, generation.trace, request.request_id)
        self._requests[request.request_id] = request
        self._idle.clear()
        self.around.observer.on_accepted(request.slo_class, demand.prompt_tokens)
        request.start_timer()
        self.waiting.enter(request, demand, fleet)
        return request

    def _check_open(self) -> None:
        if self._draining:
            raise Unavailable("this router is shutting down; send the request to another one")
        if len(self._requests) >= self._max_concurrent_requests:
            raise Overloaded(
                f"{len(self._requests)} requests are running or waiting, which is this router's limit; try again in a "
                "second"
            )

    def _refused(self, demand: Demand, error: SegueError) -> None:
        self.around.observer.on_refused(demand.tenant, demand.slo_class, error.code)

    # From requests

    def expire(self, request: Request) -> None:
        self.conductor.expire(request)

    def settle(self, run: ChoiceRun) -> None:
        self.conductor.settle(run)

    def end(self, request: Request) -> None:
        if self._requests.pop(request.request_id, None) is None:
            return
        self.conductor.end(request)
        if not self._requests:
            self._idle.set()

    def cost(self, model: str, usage: Usage) -> Cost | None:
        prices = self.around.prices
        return None if prices is None else prices.cost(model, usage)

    def finished(self, record: RequestRecord) -> None:
        self.around.observer.on_finished(record)

    # For whoever runs the process, reports or scales

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
        renew_leases(self._links, self.conductor.held(), now_s)

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
        """What waits for a worker."""
        return self.conductor.waiting
