"""The router's end of one worker's stream: what goes out, and what is known of the worker."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from operator import is_

import grpc

from segue.proto.kv_transfer_pb2 import ReleaseRequest, RenewRequest, Ticket
from segue.proto.worker_pb2 import (
    ROLE_DECODE,
    WORKER_STATE_READY,
    EngineFacts,
    Load,
    Register,
    RouterBacklog,
    RouterFrame,
    Status,
    Submit,
)
from segue.router.rates.pooled_rates import Kind, settle
from segue.router.rates.worker_rates import UNMEASURED, RateMeter, Rates
from segue.router.workers.fleet import WorkerView

# What no view of a worker shows.
_UNSEEN = frozenset(
    {"changed", "heard_at_s", "next_kv_event", "other_routers", "told_backlog", "_frame", "_kind", "_settled", "_view"}
)
# What a view shows of this router's own doing, in the order in which they are compared.
_COUNTS = ("assigned_requests", "assigned_tokens", "assigned_prefill_tokens", "busy_since_s", "turn", "spared")


class WorkerLink:
    """One attached worker. What is sent while a write is under way goes out as one frame.

    ``changed`` says that its view may not be what it was: something was set that a view shows, or somebody has had the
    meter.
    """

    changed: bool

    def __init__(self, register: Register) -> None:
        self.register = register
        self.status = Status()
        self.load = Load()
        self.heard_at_s = 0.0
        self.ready_at_s = 0.0
        self.assigned_requests = 0
        self.assigned_tokens = 0
        self.assigned_prefill_tokens = 0
        self.turn = 0
        self.next_kv_event: int | None = None  # Its number; None until a snapshot begins.
        self.other_routers: Sequence[RouterBacklog] = ()  # What they have told this worker.
        self.told_backlog = 0  # The number of what we have told it.
        self._meter = RateMeter(register.role)
        self.closed = ""
        self.close_status = grpc.StatusCode.ABORTED
        self._frame = RouterFrame()
        self._filled = asyncio.Event()
        self._kind: tuple[Status, Kind] | None = None  # With what it was made of, as the next.
        self._view: tuple[tuple[object, ...], tuple[float, ...], WorkerView] | None = None
        self._settled: tuple[Rates, Rates, Rates] | None = None

    def __setattr__(self, name: str, value: object) -> None:
        own = self.__dict__  # Set here, not by way of this method again: some fifty things are for each request.
        own[name] = value
        if name not in _UNSEEN:
            own["changed"] = True

    @property
    def meter(self) -> RateMeter:
        self.__dict__["changed"] = True
        return self._meter

    @property
    def worker_id(self) -> str:
        return self.register.worker_id

    @property
    def facts(self) -> EngineFacts:
        return self.status.facts

    @property
    def ready(self) -> bool:
        return self.status.state == WORKER_STATE_READY

    def submit(self, submit: Submit) -> None:
        """Takes the message over: a long prompt is not copied token by token."""
        self.meter.sent(submit, time.monotonic())
        ours = self._frame.submit.add()
        ours.input_token_ids.MergeFrom(submit.input_token_ids)
        submit.ClearField("input_token_ids")
        ours.MergeFrom(submit)
        self._filled.set()

    def abort(self, request_id: str) -> None:
        self._frame.abort_request_ids.append(request_id)
        self.meter.aborted(request_id)
        self._filled.set()

    def release(self, ticket: Ticket, reason: str) -> None:
        release = ReleaseRequest(ticket_id=ticket.ticket_id, producer_epoch=ticket.producer_epoch, reason=reason)
        self._frame.release.append(release)
        self._filled.set()

    def renew(self, tickets: Iterable[Ticket]) -> None:
        """Extend the leases of what this worker offered; tickets of an earlier life of it are left out."""
        epoch = self.register.epoch
        names = [ticket.ticket_id for ticket in tickets if ticket.producer_epoch == epoch]
        if names:
            self._frame.renew.append(RenewRequest(ticket_ids=names, producer_epoch=epoch))
            self._filled.set()

    def move(self, request_id: str) -> None:
        self._frame.move_request_ids.append(request_id)
        self._filled.set()

    def ask_for_kv_events(self) -> None:
        self._frame.resend_kv_events = True
        self._filled.set()

    def tell_backlog(self, backlog: RouterBacklog) -> None:
        """For the other routers; nothing if it has been told already."""
        if self.told_backlog != backlog.number:
            self.told_backlog = backlog.number
            self._frame.backlog.CopyFrom(backlog)
            self._filled.set()

    def close(self, reason: str) -> None:
        """End the stream, after what waits has gone out; ``reason`` is told to the worker."""
        self.closed = reason
        self._filled.set()

    def refuse(self, reason: str) -> None:
        """End the stream for good: the worker does not fit and is not to dial again."""
        self._frame.refused.reason = reason
        self.close_status = grpc.StatusCode.FAILED_PRECONDITION
        self.close(reason)

    async def take(self) -> RouterFrame:
        """The waiting frame, as soon as there is one."""
        await self._filled.wait()
        frame, self._frame = self._frame, RouterFrame()
        self._filled.clear()
        return frame

    @property
    def kind(self) -> Kind:
        if self._kind is None or self._kind[0] is not self.status:
            facts = self.status.facts
            self._kind = (
                self.status,
                Kind(self.register.role, facts.accelerator, facts.engine, facts.engine_version),
            )
        return self._kind[1]

    def view(self, spared: bool = False, usual: Rates = UNMEASURED) -> WorkerView:
        """As it is now. ``usual`` are the rates of its kind.

        A view of which nothing has changed is given again: each request looks at all workers, and in a fleet of
        hundreds hardly any has changed since the last one. Of those that have, most differ by our own counts alone.
        """
        meter = self._meter
        rates, ends_s = meter.rates, meter.ends_s(time.monotonic()) if self._crowded else ()
        objects = (self.status, self.load, rates, usual, ends_s)
        counts = (
            self.assigned_requests,
            self.assigned_tokens,
            self.assigned_prefill_tokens or meter.waiting_prefill_tokens,
            meter.busy_since_s,
            self.turn,
            spared,
        )
        known = self._view
        if known is not None and counts == known[1] and all(map(is_, objects, known[0])):
            return known[2]
        if known is not None and all(map(is_, objects[:2], known[0])):  # The worker has said nothing since.
            own = dict(zip(_COUNTS, counts, strict=True))
            view = known[2].counting(rates=self._settled_rates(usual), ends_s=ends_s, **own)
        else:
            view = self._fresh_view(spared, usual, ends_s)
        self._view = objects, counts, view
        return view

    @property
    def _crowded(self) -> bool:
        """Whether somebody may have to wait for a place or for blocks: half of either is gone."""
        if self.register.role != ROLE_DECODE:
            return False
        facts, block_tokens = self.facts, self.facts.layout.block_tokens
        tokens = self.assigned_tokens + self.assigned_requests * self._meter.rates.decode_tokens
        return (
            2 * self.assigned_requests >= facts.max_running_requests > 0
            or 2 * self.load.free_blocks < facts.kv_blocks
            or (block_tokens > 0 and 2 * tokens > facts.kv_blocks * block_tokens)
        )

    def _fresh_view(self, spared: bool, usual: Rates, ends_s: tuple[float, ...]) -> WorkerView:
        return WorkerView(
            worker_id=self.register.worker_id,
            epoch=self.register.epoch,
            role=self.register.role,
            state=self.status.state,
            detail=self.status.detail,
            address=self.register.address,
            facts=self.status.facts,
            load=self.load,
            assigned_requests=self.assigned_requests,
            assigned_tokens=self.assigned_tokens,
            spared=spared,
            rates=self._settled_rates(usual),
            assigned_prefill_tokens=self.assigned_prefill_tokens or self._meter.waiting_prefill_tokens,
            busy_since_s=self._meter.busy_since_s,
            ends_s=ends_s,
            turn=self.turn,
            version=self.register.version,
            flex=self.register.flex,
            turns=self.register.turns,
        )

    def _settled_rates(self, usual: Rates) -> Rates:
        """Between two answers a worker's view changes with each request; what it is taken to be like doesn't."""
        own, known = self._meter.rates, self._settled
        if known is None or known[0] is not own or known[1] is not usual:
            known = self._settled = (own, usual, settle(own, usual))
        return known[2]
