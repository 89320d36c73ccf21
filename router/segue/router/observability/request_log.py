"""A log line for a request that is over: for each one with ``--log-requests``, else for those that we failed."""

from __future__ import annotations

from segue.base.errors import Cancelled, InvalidRequest
from segue.base.logging import get_logger
from segue.proto.inference_pb2 import Path
from segue.router.lifecycle.records import RequestRecord, RouterObserver

log = get_logger("router")

_NOT_OURS = frozenset({"ok", Cancelled.default_code, InvalidRequest.default_code})


class RequestLog(RouterObserver):
    """Lines carry ids, sizes and times; never a prompt, an answer or a key."""

    def __init__(self, *, every: bool) -> None:
        self._every = every

    def on_finished(self, record: RequestRecord) -> None:
        failed = record.outcome not in _NOT_OURS
        if not (failed or self._every):
            return
        usage, timings = record.usage, record.timings
        tell = log.warning if failed else log.info
        tell(
            "request",
            request_id=record.request_id,
            label=record.label,
            trace_id=timings.trace_id,
            tenant=record.tenant,
            slo_class=record.slo_class,
            outcome=record.outcome,
            path=Path.Name(timings.path).removeprefix("PATH_").lower(),
            prefill_worker=timings.prefill_worker,
            decode_worker=timings.decode_worker,
            prompt_tokens=usage.prompt_tokens,
            cached_prompt_tokens=usage.cached_prompt_tokens,
            output_tokens=usage.output_tokens,
            queue_s=round(timings.queue_s, 4),
            ttft_s=round(timings.ttft_s, 4),
            end_to_end_s=round(record.end_to_end_s, 4),
            continuations=len(timings.continuations),
        )
