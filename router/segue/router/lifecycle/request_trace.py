"""The spans of one request: itself, its wait, each leg, each continuation. Legs' workers add theirs beneath."""

from __future__ import annotations

import time
from dataclasses import dataclass

from segue.base.trace_parent import TraceParent
from segue.base.tracing import Span, Tracing
from segue.proto.inference_pb2 import Path
from segue.proto.worker_pb2 import Submit, Transfer
from segue.router.lifecycle.records import RequestRecord


@dataclass(slots=True)
class _Leg:
    """What one answer does now; ``worker_id`` is empty while it looks for workers."""

    span: Span
    worker_id: str


class Untraced:
    """What is told of a request that nobody traces."""

    trace_id = ""

    def sent(self, run_id: str, phase: str, worker_id: str, submit: Submit) -> None:
        """A leg goes out, a prefill or a decode; its worker is told whose child it is. The leg before it is over."""

    def interrupted(self, run_id: str, cause: str, error: str) -> None:
        """The leg is lost; until another is sent, the answer looks for workers."""

    def first_token(self) -> None:
        """It is on its way to the client."""

    def transferred(self, run_id: str, transfer: Transfer) -> None:
        """A decode leg has its KV cache, or could not get it."""

    def end(self, record: RequestRecord) -> None:
        """It is over, and so is what runs of it."""


UNTRACED = Untraced()


def open_trace(tracing: Tracing | None, parent: TraceParent | None, request_id: str) -> Untraced:
    """The trace of a request that begins now; one that records nothing, if it isn't sampled."""
    if tracing is None:
        return UNTRACED
    began_ns = time.time_ns()
    attributes = {"segue.request_id": request_id}
    span = tracing.begin("segue.request", parent, attributes, kind="server", at_ns=began_ns)
    return RequestTrace(tracing, span, began_ns) if span.parent.sampled else UNTRACED


class RequestTrace(Untraced):
    """The spans of a sampled request."""

    def __init__(self, tracing: Tracing, span: Span, began_ns: int) -> None:
        self.trace_id = span.parent.trace_id
        self._tracing = tracing
        self._span = span
        self._queue: Span | None = tracing.begin("queue", span.parent, {}, at_ns=began_ns)
        self._legs: dict[str, _Leg] = {}

    def sent(self, run_id: str, phase: str, worker_id: str, submit: Submit) -> None:
        self._end_queue()
        self._end_leg(run_id)
        attributes: dict[str, str | int] = {
            "segue.worker": worker_id,
            "segue.leg": submit.request_id,
            "segue.input_tokens": len(submit.input_token_ids),
            "segue.has_ticket": submit.HasField("ticket"),
        }
        span = self._tracing.begin(phase, self._span.parent, attributes, kind="client")
        submit.trace_parent = str(span.parent)
        self._legs[run_id] = _Leg(span, worker_id)

    def interrupted(self, run_id: str, cause: str, error: str) -> None:
        if (leg := self._legs.get(run_id)) is not None:
            if cause != "moved":
                leg.span.fail(error)
            self._end_leg(run_id)
        attributes = {"segue.cause": cause, "segue.error": error}
        self._legs[run_id] = _Leg(self._tracing.begin("continuation", self._span.parent, attributes), "")

    def first_token(self) -> None:
        self._span.event("first token", {})

    def transferred(self, run_id: str, transfer: Transfer) -> None:
        if (leg := self._legs.get(run_id)) is not None:
            leg.span.set(transfer_attributes(transfer))

    def end(self, record: RequestRecord) -> None:
        self._end_queue()
        for run_id in list(self._legs):
            self._end_leg(run_id)
        self._span.set(
            {
                "segue.slo_class": record.slo_class,
                "segue.outcome": record.outcome,
                "segue.path": Path.Name(record.timings.path).removeprefix("PATH_").lower(),
                "gen_ai.request.model": record.model,
                "gen_ai.usage.input_tokens": record.usage.prompt_tokens,
                "gen_ai.usage.output_tokens": record.usage.output_tokens,
                "segue.cached_prompt_tokens": record.usage.cached_prompt_tokens,
                "segue.ttft_s": record.timings.ttft_s,
            }
        )
        if record.outcome not in {"ok", "cancelled"}:
            self._span.fail(record.outcome)
        self._span.end()

    def _end_queue(self) -> None:
        if self._queue is not None:
            self._queue.end()
            self._queue = None

    def _end_leg(self, run_id: str) -> None:
        if (leg := self._legs.pop(run_id, None)) is not None:
            leg.span.end()


def transfer_attributes(transfer: Transfer) -> dict[str, str | int | float | bool]:
    attributes: dict[str, str | int | float | bool] = {
        "segue.kv.transport": transfer.transport,
        "segue.kv.bytes": transfer.bytes,
        "segue.kv.seconds": transfer.seconds,
    }
    if transfer.error:
        attributes["segue.kv.error"] = transfer.error
        attributes["segue.kv.corrupt"] = transfer.corrupt
    return attributes
