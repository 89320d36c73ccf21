"""Spans of a worker's legs, under the router's: the leg, the engine's queue, the first computation, the KV transfer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from segue.base.trace_parent import TraceParent, parse_trace_parent
from segue.base.tracing import Span, Tracing
from segue.proto.worker_pb2 import EngineUsage, Load, Register, RequestOutput, Role, Submit, Transfer
from segue.worker.metrics.counting import outcome
from segue.worker.observer import WorkerObserver

_NS = 1_000_000_000


@dataclass(slots=True)
class _Leg:
    parent: TraceParent
    span: Span
    began_ns: int
    tokens: int = 0
    usage: EngineUsage = field(default_factory=EngineUsage)
    transfer: Transfer | None = None


class LegSpans(WorkerObserver):
    """Made for the legs that routers trace; the others pass by at the cost of a look at an empty field.

    Engines say how long things took, not when they began: the queue is drawn from the leg's beginning, the computation
    behind it, and the transfer, which is part of the queue, from its beginning too.
    """

    def __init__(self, tracing: Tracing, role: str, worker_id: str) -> None:
        self._tracing = tracing
        self._role = role
        self._worker_id = worker_id
        self._legs: dict[str, _Leg] = {}

    def on_role(self, register: Register) -> None:
        self._role = Role.Name(register.role).removeprefix("ROLE_").lower()

    def on_taken(self, submit: Submit) -> None:
        parent = parse_trace_parent(submit.trace_parent)
        if parent is None or not parent.sampled:
            return
        began_ns = time.time_ns()
        attributes: dict[str, str | int] = {
            "segue.leg": submit.request_id,
            "segue.worker": self._worker_id,
            "segue.input_tokens": len(submit.input_token_ids),
        }
        span = self._tracing.begin(f"{self._role} worker", parent, attributes, kind="server", at_ns=began_ns)
        self._legs[submit.request_id] = _Leg(parent, span, began_ns)

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        if not self._legs:
            return
        for output in outputs:
            leg = self._legs.get(output.request_id)
            if leg is None:
                continue
            if not leg.tokens and output.token_ids:
                leg.span.event("first token", {})
            leg.tokens += len(output.token_ids)
            if output.HasField("usage"):
                leg.usage = output.usage
            if output.HasField("transfer"):
                leg.transfer = output.transfer

    def on_over(self, last: RequestOutput) -> None:
        leg = self._legs.pop(last.request_id, None)
        if leg is None:
            return
        usage = leg.usage
        scheduled_ns = leg.began_ns + round(usage.queue_s * _NS)
        if usage.queue_s or usage.compute_s:
            self._child(leg, "engine queue", leg.began_ns, scheduled_ns)
            self._child(leg, "engine compute", scheduled_ns, scheduled_ns + round(usage.compute_s * _NS))
        if leg.transfer is not None:
            self._transfer(leg, leg.transfer)
        leg.span.set(
            {
                "segue.outcome": outcome(last),
                "segue.output_tokens": leg.tokens,
                "segue.cached_tokens": usage.cached_tokens,
                "segue.transferred_tokens": usage.transferred_tokens,
                "segue.computed_tokens": usage.computed_tokens,
            }
        )
        if last.HasField("error"):
            leg.span.fail(last.error.message)
        leg.span.end()

    def _transfer(self, leg: _Leg, transfer: Transfer) -> None:
        span = self._tracing.begin(
            "kv transfer",
            leg.span.parent,
            {
                "segue.kv.transport": transfer.transport,
                "segue.kv.bytes": transfer.bytes,
                "segue.kv.corrupt": transfer.corrupt,
                "segue.kv.digest_seconds": transfer.digest_seconds,
            },
            at_ns=leg.began_ns,
        )
        if transfer.error:
            span.fail(transfer.error)
        span.end(leg.began_ns + round(transfer.seconds * _NS))

    def _child(self, leg: _Leg, name: str, began_ns: int, ended_ns: int) -> None:
        self._tracing.begin(name, leg.span.parent, {}, at_ns=began_ns).end(ended_ns)
