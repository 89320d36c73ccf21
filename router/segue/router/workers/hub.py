"""Where workers attach: ``segue.v1.WorkerHub``, on a port of its own that clients don't reach."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Protocol

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from segue.base.identity import caller_problem
from segue.base.logging import get_logger
from segue.base.versions import protocol_problem
from segue.proto.worker_pb2 import (
    ROLE_PREFILL,
    WORKER_STATE_READY,
    KvEvents,
    Load,
    Refused,
    Register,
    Registered,
    RequestOutput,
    Role,
    RouterFrame,
    Status,
    StepTokens,
    WorkerFrame,
)
from segue.proto.worker_pb2_grpc import WorkerHubServicer
from segue.router.models import Models
from segue.router.rates.worker_rates import has_prompts
from segue.router.workers.fleet import mismatch
from segue.router.workers.lease import Lease
from segue.router.workers.link import WorkerLink
from segue.router.workers.links import WorkerLinks

log = get_logger("router")

_ROLES = (Role.ROLE_PREFILL, Role.ROLE_DECODE)

_Context = grpc.aio.ServicerContext[WorkerFrame, RouterFrame]


class HubListener(Protocol):
    def on_tokens(self, link: WorkerLink, tokens: StepTokens) -> None: ...

    def on_kv_events(self, link: WorkerLink, events: KvEvents) -> None: ...

    def on_outputs(self, link: WorkerLink, outputs: Iterable[RequestOutput]) -> None: ...

    def on_worker_lost(self, link: WorkerLink) -> None: ...

    def on_worker_state(self, link: WorkerLink) -> None: ...


class WorkerHub(WorkerHubServicer):
    """Serves each worker's stream until it ends or goes silent for longer than its lease."""

    def __init__(
        self, router_id: str, lease_s: float, links: WorkerLinks, listener: HubListener, models: Models
    ) -> None:
        self._router_id = router_id
        self._lease_s = lease_s
        self._links = links
        self._listener = listener
        self._models = models
        self.ports: tuple[int, ...] = ()  # Of all processes of this router, where it has several.

    # The generated base class knows only the iterator style; read() and write() let two tasks share the stream.
    async def Attach(  # type: ignore[override]
        self, request_iterator: AsyncIterator[WorkerFrame], context: _Context
    ) -> None:
        first = await self._first_frame(context)
        link = self._add(first.register)
        tasks = (
            asyncio.create_task(self._read_frames(link, first, context), name=f"frames from {link.worker_id}"),
            asyncio.create_task(self._write_frames(link, context), name=f"frames to {link.worker_id}"),
        )
        try:
            # Half a stream is none: whichever task ends first, and however, ends the other and the attachment.
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if link.closed:  # What follows is a status, and gRPC takes one write at a time.
                await asyncio.wait(tasks[1:], timeout=self._lease_s)
        finally:
            self._drop(link)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()  # Raises what it ended with.
        if link.closed:
            await context.abort(link.close_status, link.closed)

    def close(self) -> None:
        """End all streams, each once its worker has been sent what waits for it."""
        for link in self._links:
            link.close(f"router {self._router_id} is shutting down")

    async def _first_frame(self, context: _Context) -> WorkerFrame:
        """The frame that registers a worker which may attach."""
        try:
            async with asyncio.timeout(self._lease_s):
                first = await _read(context)
        except TimeoutError:
            await context.abort(grpc.StatusCode.DEADLINE_EXCEEDED, f"no Register frame came within {self._lease_s:g} s")
        except DecodeError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, _no_frame(error))
        if first is None or not first.HasField("register"):
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the first frame must be Register")
        register = first.register
        if (reason := protocol_problem(register.protocol, register.version)) is not None:
            log.warning("worker_refused", worker_id=register.worker_id, peer=context.peer(), reason=reason)
            await context.write(RouterFrame(refused=Refused(reason=reason)))
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, reason)
        if not register.worker_id or register.role not in _ROLES:
            await context.abort(
                grpc.StatusCode.INVALID_ARGUMENT,
                f"Register needs a worker_id and a role, prefill or decode; it has {register.worker_id!r} and "
                f"{register.role}",
            )
        role = Role.Name(register.role).removeprefix("ROLE_").lower()
        if (problem := caller_problem(context.auth_context(), role, register.worker_id)) is not None:
            log.error("worker_refused", worker_id=register.worker_id, peer=context.peer(), reason=problem)
            await context.write(RouterFrame(refused=Refused(reason=problem)))
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, problem)
        known = self._links.get(register.worker_id)
        another = known is not None and known.register.epoch != register.epoch
        if known is not None and another and time.monotonic() - known.heard_at_s < self._lease_s / 2:
            await context.abort(
                grpc.StatusCode.ALREADY_EXISTS,
                f"worker id {register.worker_id!r} is attached with epoch {known.register.epoch}; start each "
                "worker with an id of its own",
            )
        if known is not None and not another and register.turns < known.register.turns:
            await context.abort(
                grpc.StatusCode.ALREADY_EXISTS,
                f"worker {register.worker_id!r} has turned {known.register.turns} times; this stream is from before, "
                f"when it had turned {register.turns} times",
            )
        return first

    def _add(self, register: Register) -> WorkerLink:
        known = self._links.get(register.worker_id)
        if known is not None:
            self._drop(known)
            known.close(f"worker {known.worker_id} has attached again; this older stream is closed")
        link = WorkerLink(register)
        link.heard_at_s = time.monotonic()
        self._links.add(link)
        role = Role.Name(register.role).removeprefix("ROLE_").lower()
        turns = {"turns": register.turns} if register.flex else {}
        told = {"role": role, "address": register.address, "version": register.version, **turns}
        log.info("worker_attached", worker_id=link.worker_id, **told)
        return link

    def _drop(self, link: WorkerLink) -> None:
        """Forget a link, once, and let its requests fail."""
        if self._links.remove(link):
            log.info("worker_detached", worker_id=link.worker_id)
            self._listener.on_worker_lost(link)

    async def _read_frames(self, link: WorkerLink, first: WorkerFrame, context: _Context) -> None:
        """Until the worker closes its side or its lease runs out."""
        now_s = asyncio.get_running_loop().time
        self._on_frame(link, first)
        try:
            async with asyncio.timeout(None) as listening:
                lease = Lease(self._lease_s, lambda: listening.reschedule(now_s()))
                try:
                    while (frame := await _read(context)) is not None:
                        lease.renew()
                        link.heard_at_s = time.monotonic()
                        self._on_frame(link, frame)
                finally:
                    lease.close()
        except TimeoutError:
            log.warning("worker_lease_expired", worker_id=link.worker_id, lease_s=self._lease_s)
        except DecodeError as error:
            log.warning("worker_not_understood", worker_id=link.worker_id, error=str(error))
            link.close(_no_frame(error))

    async def _write_frames(self, link: WorkerLink, context: _Context) -> None:
        """Until the link is closed."""
        registered = Registered(router_id=self._router_id, lease_s=self._lease_s, ports=self.ports)
        await context.write(RouterFrame(registered=registered))
        while not link.closed:
            await context.write(await link.take())

    def _on_frame(self, link: WorkerLink, frame: WorkerFrame) -> None:
        if frame.HasField("load"):
            link.load = frame.load
            self._stepped(link, frame.load)
        if frame.HasField("other_routers"):
            link.other_routers = frame.other_routers.routers
        if frame.HasField("status"):
            self._on_status(link, frame.status)
        if frame.HasField("kv_events"):  # Before outputs: what they end was until now only expected.
            self._listener.on_kv_events(link, frame.kv_events)
        if frame.HasField("tokens"):
            self._listener.on_tokens(link, frame.tokens)
        if frame.outputs:
            self._listener.on_outputs(link, frame.outputs)
            link.meter.answered(frame.outputs, time.monotonic())

    def _stepped(self, link: WorkerLink, load: Load) -> None:
        """A frame has told of its engine's last step, perhaps again."""
        if not link.meter.stepped(load):
            return
        crowding, now_s = self._links.crowding, time.monotonic()
        if link.register.role == ROLE_PREFILL:
            if load.step_prompt_tokens:
                began_s = now_s - load.step_s  # Steps before it that gave nobody a token were not told of.
                crowding.computed(link.worker_id, min(link.meter.busy_since_s or began_s, began_s), now_s)
        elif not has_prompts(load):
            crowding.stepped(link.worker_id, link.kind, load.step_requests, load.step_s, now_s)

    def _on_status(self, link: WorkerLink, status: Status) -> None:
        became_ready = status.state == WORKER_STATE_READY and status.state != link.status.state
        if became_ready:
            peers = [view for view in self._links.snapshot().workers if view.worker_id != link.worker_id]
            problem = self._models.mismatch(status.facts) or mismatch(status.facts, peers)
            if problem is not None:
                message = f"worker {link.worker_id} {problem}"
                log.error("worker_refused", worker_id=link.worker_id, reason=message)
                link.refuse(message)
                return
        link.status = status
        if became_ready:
            link.ready_at_s = time.monotonic()
            log.info("worker_ready", worker_id=link.worker_id, engine=status.facts.engine)
            self._models.learn(status.facts)
        self._listener.on_worker_state(link)


def _no_frame(error: DecodeError) -> str:
    return f"what came is no WorkerFrame: {error}; run the same version of Segue on both"


async def _read(context: _Context) -> WorkerFrame | None:
    """The next frame; None when the worker has closed its side. Raises DecodeError."""
    frame = await context.read()
    return frame if isinstance(frame, WorkerFrame) else None
