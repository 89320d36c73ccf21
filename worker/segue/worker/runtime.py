"""A worker: an engine, the routers it is attached to, and who gets which output."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence

from segue.base.logging import get_logger
from segue.engine.protocol import Engine
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import (
    EngineFacts,
    Load,
    Register,
    RequestError,
    RequestOutput,
    RouterFrame,
    Status,
    Submit,
    WorkerState,
)
from segue.worker.attachment import Attachment
from segue.worker.releases import Releases
from segue.worker.role import WorkerRole

log = get_logger("worker")


class WorkerRuntime:
    """Between the attachments and the engine. Everything here runs on the event loop."""

    def __init__(self, role: WorkerRole, register: Register, engine: Engine, releases: Releases) -> None:
        self.register = register
        self.status = Status(state=WorkerState.WORKER_STATE_LOADING, detail="starting")
        self.failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
        self._role = role
        self._engine = engine
        self._releases = releases
        self._attachments: set[Attachment] = set()
        self._owner_of: dict[str, Attachment] = {}
        self._idle = asyncio.Event()

    # From the engine

    def on_loaded(self) -> None:
        self.set_state(WorkerState.WORKER_STATE_WARMING, "running warm-up requests")

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        by_attachment: dict[Attachment, list[RequestOutput]] = defaultdict(list)
        for output in outputs:
            owner = self._owner_of.get(output.request_id)
            if owner is None:  # Aborted, or its router is gone; a ticket that comes too late must not be stranded.
                self._give_back(output)
                continue
            if output.finish_reason:
                del self._owner_of[output.request_id]
            by_attachment[owner].append(output)
        for attachment, theirs in by_attachment.items():
            attachment.outbox.put_outputs(theirs)
            attachment.outbox.put_load(load)
        self._idle.set()

    def on_failure(self, error: BaseException) -> None:
        if not self.failure.done():
            self.failure.set_result(error)
        self._idle.set()

    # From the routers

    def on_frame(self, attachment: Attachment, frame: RouterFrame) -> None:
        if attachment not in self._attachments:
            self._attachments.add(attachment)
            # It may have changed since the stream's first frame was written.
            attachment.outbox.put_status(self.status)
        for submit in frame.submit:
            self._submit(attachment, submit)
        for request_id in frame.abort_request_ids:
            if self._owner_of.pop(request_id, None) is not None:
                self._engine.abort(request_id)
                self._idle.set()
        for release in frame.release:
            self._releases.give_back(release, self.status.facts.kv_address)
        for renew in frame.renew:
            self._releases.renew(renew, self.status.facts.kv_address, on_gone=lambda gone: None)

    def on_detached(self, attachment: Attachment) -> None:
        """The router is gone: nobody would read what its requests produce."""
        self._attachments.discard(attachment)
        orphans = [request_id for request_id, owner in self._owner_of.items() if owner is attachment]
        for request_id in orphans:
            del self._owner_of[request_id]
            self._engine.abort(request_id)
        if orphans:
            self._idle.set()
            log.warning("router_lost", router=attachment.address, aborted_requests=len(orphans))

    # State

    def set_state(self, state: WorkerState, detail: str, facts: EngineFacts | None = None) -> None:
        self.status = Status(state=state, detail=detail, facts=facts or self.status.facts)
        for attachment in self._attachments:
            attachment.outbox.put_status(self.status)
        log.info("state", state=WorkerState.Name(state).removeprefix("WORKER_STATE_").lower(), detail=detail)

    def current_load(self) -> Load:
        return self._engine.load()

    @property
    def open_requests(self) -> int:
        return len(self._owner_of)

    async def drain(self, timeout_s: float) -> bool:
        """Take nothing new and wait until nothing is left; False if time or the engine ran out first."""
        detail = f"{self.open_requests} requests and {self.current_load().held_offers} offers left"
        self.set_state(WorkerState.WORKER_STATE_DRAINING, detail)
        try:
            async with asyncio.timeout(timeout_s):
                while self._owner_of or not self._role.drained(self._engine.load()):
                    if self.failure.done():
                        return False
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            log.warning("drain_timed_out", timeout_s=timeout_s, requests=self.open_requests)
            return False
        return True

    async def flush(self, timeout_s: float) -> None:
        """Until the routers have been sent everything, or the time is up: last tokens must not be lost."""
        try:
            async with asyncio.timeout(timeout_s):
                for attachment in list(self._attachments):
                    await attachment.outbox.flushed()
        except TimeoutError:
            log.warning("flush_timed_out", timeout_s=timeout_s)

    def _submit(self, attachment: Attachment, submit: Submit) -> None:
        refusal = self._role.refusal(submit)
        kind = RequestError.KIND_INTERNAL
        if refusal is None and self.status.state != WorkerState.WORKER_STATE_READY:
            state = WorkerState.Name(self.status.state)
            refusal, kind = f"worker {self.register.worker_id} is {state}", RequestError.KIND_UNAVAILABLE
        if refusal is None and submit.request_id in self._owner_of:
            refusal = f"request id {submit.request_id} is in use"
        if refusal is not None:
            error = RequestError(kind=kind, message=refusal)
            output = RequestOutput(
                request_id=submit.request_id, finish_reason=FinishReason.FINISH_REASON_ERROR, error=error
            )
            attachment.outbox.put_outputs([output])
            if submit.HasField("ticket"):
                self._releases.give_back_ticket(submit.ticket, "refused")
            return
        self._owner_of[submit.request_id] = attachment
        self._engine.submit(submit)

    def _give_back(self, output: RequestOutput) -> None:
        if output.HasField("offer"):
            self._releases.give_back_ticket(output.offer, "cancelled")
