"""The spans of one request: itself, its wait, each leg, each continuation. Legs' workers add theirs beneath."""

from __future__ import annotations

import time
from dataclasses import dataclass

from segue.base.trace_parent import TraceParent
from segue.base.tracing import Span, Tracing
from segue.proto.inference_pb2 import Path
from segue.proto.worker_pb2 import Submit, Transfer
from segue.router.records import RequestRecord


@dataclass(slots=True)
class _Leg:
    """What one answer does now; ``worker_id`` is empty while it looks for workers."""

    span: Span
    worker_id: str


class RequestTrace:
    """Told by whoever runs the request. Begins with :meth:`open`, ends with :meth:`end`."""

    def __init__(self, tracing: Tracing, span: Span, began_ns: int) -> None:
        self._tracing = tracing
        self._span = span
        self._queue: Span | None = tracing.begin("queue", span.parent, {}, at_ns=began_ns)
        self._legs: dict[str, _Leg] = {}

    @classmethod
    def open(cls, tracing: Tracing, parent: TraceParent | None, request_id: str) -> RequestTrace | None:
        """None for a request that is not sampled."""
        began_ns = time.time_ns()
        attributes = {"segue.request_id": request_id}
        span = tracing.begin("segue.request", parent, attributes, kind="server", at_ns=began_ns)
        return cls(tracing, span, began_ns) if span.parent.sampled else None

    @property
    def trace_id(self) -> str:
        return self._span.parent.trace_id

    def sent(self, run_id: str, worker_id: str, submit: Submit) -> None:
        """A leg goes out; its worker is told whose child it is. The leg before it is over."""
        self._end_queue()
        self._end_leg(run_id)
        name = "prefill" if submit.offer_kv or submit.sampling.max_tokens == 1 else "decode"
        attributes = {
            "segue.worker": worker_id,
            "segue.leg": submit.request_id,
            "segue.input_tokens": len(submit.input_token_ids),
            "segue.has_ticket": submit.HasField("ticket"),
        }
        span = self._tracing.begin(name, self._span.parent, attributes, kind="client")
        submit.trace_parent = str(span.parent)
        self._legs[run_id] = _Leg(span, worker_id)

    def interrupted(self, run_id: str, cause: str, error: str) -> None:
        """The leg is lost; until another is sent, the answer looks for workers."""
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
