"""A worker: an engine, the routers it is attached to, and who gets which output."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress

from segue.base.logging import get_logger
from segue.engine.protocol import Engine
from segue.proto.kv_transfer_pb2 import ReleaseRequest
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import (
    EngineFacts,
    KvEvent,
    Load,
    Register,
    RequestError,
    RequestOutput,
    RouterBacklog,
    RouterFrame,
    Status,
    Submit,
    WorkerState,
)
from segue.worker.attachment import Attachment
from segue.worker.drain import DrainClock, left_over, progress
from segue.worker.kv_cache_view import KvCacheView
from segue.worker.observer import WorkerObserver
from segue.worker.offered_tickets import OfferedTickets
from segue.worker.open_requests import OpenRequests
from segue.worker.releases import Releases
from segue.worker.role import WorkerRole

log = get_logger("worker")

# How often time is looked at. A cancel or a deadline is late by no more than this on top of the engine's step.
TICK_S = 0.1


class WorkerRuntime:
    """Between the attachments and the engine. Everything here runs on the event loop."""

    def __init__(self, role: WorkerRole, register: Register, engine: Engine, releases: Releases) -> None:
        self.register = register
        self.observer = WorkerObserver()  # Whoever makes the process sets it before it attaches.
        self.status = Status(state=WorkerState.WORKER_STATE_LOADING, detail="starting")
        self.failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._role = role
        self._engine = engine
        self._releases = releases
        self._attachments: set[Attachment] = set()
        self._open: OpenRequests[Attachment] = OpenRequests()
        self._offered = OfferedTickets()
        self._kv_cache = KvCacheView()
        self._idle = asyncio.Event()
        self._attached = asyncio.Event()  # Another router is.
        self._now_s = asyncio.get_running_loop().time

    # From the engine

    def on_loaded(self) -> None:
        self.set_state(WorkerState.WORKER_STATE_WARMING, "running warm-up requests")

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        self.observer.on_step(outputs, load)
        by_attachment: dict[Attachment, list[RequestOutput]] = defaultdict(list)
        for output in outputs:
            owner = self._open.owner_of(output.request_id)
            if owner is None:  # Aborted, or its router is gone; a ticket that comes too late must not be stranded.
                self._give_back(output)
                continue
            if output.finish_reason:
                self._open.close(output.request_id)
                self.observer.on_over(output)
            if output.HasField("offer"):
                self._offered.add(owner.address, output.offer, self._now_s())
            by_attachment[owner].append(output)
        for attachment, theirs in by_attachment.items():
            attachment.outbox.put_outputs(theirs)
            attachment.outbox.put_load(load)
        self._idle.set()

    def on_kv_events(self, events: Sequence[KvEvent]) -> None:
        self._kv_cache.apply(events)
        for attachment in self._attachments:
            attachment.outbox.put_kv_events(events)

    def on_failure(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_result(error)
        self._idle.set()

    # From the routers

    def on_frame(self, attachment: Attachment, frame: RouterFrame) -> None:
        if frame.HasField("registered"):
            self._give_back_all(self._offered.attached(attachment.address, frame.registered.router_id))
        if attachment not in self._attachments:
            self._attachments.add(attachment)
            self._attached.set()
            # It may have changed since the stream's first frame was written.
            attachment.outbox.put_status(self.status)
            attachment.outbox.start_kv_events(self._kv_cache.snapshot)
        elif frame.resend_kv_events:
            attachment.outbox.start_kv_events(self._kv_cache.snapshot)
        for submit in frame.submit:
            self._submit(attachment, submit)
        # Of its own requests only. One that is not open any more has its last output on the way.
        for request_id in frame.abort_request_ids:
            if self._open.owner_of(request_id) is attachment:
                self._abort(request_id)
        for request_id in frame.move_request_ids:
            if self._open.owner_of(request_id) is attachment:
                self._engine.move(request_id)
        for release in frame.release:
            self._offered.forget([release.ticket_id])
            self._releases.give_back(release, self.status.facts.kv_address)
        for renew in frame.renew:
            self._offered.renew(renew.ticket_ids, renew.lease_s, self._now_s())
            self._releases.renew(renew, self.status.facts.kv_address, on_gone=self._offered.forget)

    def on_detached(self, attachment: Attachment) -> None:
        """The router is gone: nobody would read what its requests produce."""
        self._attachments.discard(attachment)
        self._offered.detached(attachment.address, self._now_s())
        orphans = self._open.of(attachment)
        for request_id in orphans:
            self._abort(request_id)
        if orphans:
            log.warning("router_lost", router=attachment.address, aborted_requests=len(orphans))

    # Time

    async def watch(self) -> None:
        """Look at the clock, again and again. Never returns."""
        while True:
            self.tick(self._now_s())
            await asyncio.sleep(TICK_S)

    def tick(self, now_s: float) -> None:
        """End requests past their deadline, and give back the tickets of routers that are lost."""
        for request_id in self._open.due(now_s):
            log.warning("deadline_passed", request_id=request_id)
            message = f"worker {self.register.worker_id}: the request's deadline has passed"
            self._fail(request_id, RequestError(kind=RequestError.KIND_DEADLINE, message=message))
        self._give_back_all(self._offered.due(now_s))

    # State

    def set_state(self, state: WorkerState, detail: str, facts: EngineFacts | None = None) -> None:
        self._tell(Status(state=state, detail=detail, facts=facts or self.status.facts))
        log.info("state", state=WorkerState.Name(state).removeprefix("WORKER_STATE_").lower(), detail=detail)

    def _tell(self, status: Status) -> None:
        self.status = status
        for attachment in self._attachments:
            attachment.outbox.put_status(status)

    def current_load(self) -> Load:
        return self._engine.load()

    def backlogs_beside(self, attachment: Attachment) -> list[RouterBacklog]:
        """Of all other routers that are attached, as far as they have told us theirs."""
        return [one.backlog for one in self._attachments if one is not attachment and one.backlog is not None]

    @property
    def attached_routers(self) -> int:
        return len(self._attachments)

    @property
    def open_requests(self) -> int:
        return len(self._open)

    async def drain(self, clock: DrainClock) -> bool:
        """Take nothing new and wait until nothing is left; False if time or the engine ran out first.

        What is left when the time is up is dropped: requests end with an error on which routers continue them
        elsewhere, offers with the process.
        """
        self.tell_emptying("draining", clock.left_s(self._now_s()))
        while not self.empty:
            if self.failure.done():
                return False
            if clock.left_s(self._now_s()) <= 0:
                self._drop_all()
                return False
            await self.moment()
            self.tell_emptying("draining", clock.left_s(self._now_s()))
        return True

    @property
    def empty(self) -> bool:
        """Nothing is left of what the worker has taken on in its role."""
        return not self._open and self._role.drained(self._engine.load())

    async def moment(self) -> None:
        """Until something may have become less."""
        self._idle.clear()
        # The wait is bounded for the clock's sake, and for engines that don't say when an offer is over.
        with suppress(TimeoutError):
            async with asyncio.timeout(TICK_S):
                await self._idle.wait()

    def look_again(self) -> None:
        """End the moment."""
        self._idle.set()

    def tell_emptying(self, why: str, left_s: float) -> None:
        """Take nothing new from now on, and say how far that is."""
        detail = progress(why, self.left_over(), left_s)
        if self.status.state != WorkerState.WORKER_STATE_DRAINING:
            self.set_state(WorkerState.WORKER_STATE_DRAINING, detail)
        elif detail != self.status.detail:
            self._tell(Status(state=WorkerState.WORKER_STATE_DRAINING, detail=detail, facts=self.status.facts))

    def left_over(self) -> str:
        return left_over(self.open_requests, self._engine.load())

    # Turning

    def take_role(self, role: WorkerRole, register: Register, facts: EngineFacts) -> None:
        """Be ready, in this role. A worker that turns to another one has no routers at this moment."""
        self._role, self.register = role, register
        self.observer.on_role(register)
        self.set_state(WorkerState.WORKER_STATE_READY, "ready", facts)

    async def attached(self, routers: int, timeout_s: float) -> None:
        """Until there are so many, or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while len(self._attachments) < routers:
                    self._attached.clear()
                    await self._attached.wait()

    def _drop_all(self) -> None:
        held_offers = self._engine.load().held_offers
        log.warning("drain_timed_out", requests=self.open_requests, held_offers=held_offers)
        message = f"worker {self.register.worker_id} has drained; its time was up"
        for request_id in self._open.all():
            self._fail(request_id, RequestError(kind=RequestError.KIND_UNAVAILABLE, message=message))

    async def leave(self, timeout_s: float) -> None:
        """Until the routers have read everything, or the time is up: last tokens must not be lost."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.gather(*(attachment.leave() for attachment in self._attachments))
        except TimeoutError:
            log.warning("leave_timed_out", timeout_s=timeout_s)

    def _submit(self, attachment: Attachment, submit: Submit) -> None:
        refusal = self._role.refusal(submit)
        kind = RequestError.KIND_INTERNAL
        if refusal is not None and self.register.flex:  # Planned before it turned: another worker will do.
            kind = RequestError.KIND_UNAVAILABLE
            refusal = f"worker {self.register.worker_id} has turned to {self._role.name}: {refusal}"
        if refusal is None and self.status.state != WorkerState.WORKER_STATE_READY:
            state = WorkerState.Name(self.status.state)
            refusal, kind = f"worker {self.register.worker_id} is {state}", RequestError.KIND_UNAVAILABLE
        if refusal is None and submit.request_id in self._open:
            refusal = f"request id {submit.request_id} is in use"
        if refusal is not None:
            attachment.outbox.put_outputs([_failed(submit.request_id, RequestError(kind=kind, message=refusal))])
            if submit.HasField("ticket"):
                self._releases.give_back_ticket(submit.ticket, "refused")
            return
        self._open.add(submit.request_id, attachment, submit.timeout_s, self._now_s())
        attachment.outbox.columns.open(submit.request_id, submit.stream)
        self.observer.on_taken(submit)
        self._engine.submit(submit)

    def _abort(self, request_id: str, last: RequestOutput | None = None) -> None:
        if (owner := self._open.owner_of(request_id)) is not None:
            owner.outbox.columns.close(request_id)
        if self._open.close(request_id):
            self._engine.abort(request_id)
            aborted = RequestOutput(request_id=request_id, finish_reason=FinishReason.FINISH_REASON_ABORT)
            self.observer.on_over(last or aborted)
            self._idle.set()

    def _fail(self, request_id: str, error: RequestError) -> None:
        """End a request ourselves; its router is told."""
        if (owner := self._open.owner_of(request_id)) is not None:
            failed = _failed(request_id, error)
            owner.outbox.put_outputs([failed])
            self._abort(request_id, failed)

    def _give_back_all(self, releases: Iterable[ReleaseRequest]) -> None:
        for release in releases:
            self._releases.give_back(release, self.status.facts.kv_address)

    def _give_back(self, output: RequestOutput) -> None:
        if output.HasField("offer"):
            self._releases.give_back_ticket(output.offer, "cancelled")


def _failed(request_id: str, error: RequestError) -> RequestOutput:
    return RequestOutput(request_id=request_id, finish_reason=FinishReason.FINISH_REASON_ERROR, error=error)
