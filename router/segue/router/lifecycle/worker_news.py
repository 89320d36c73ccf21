"""What workers say, brought to the answers that it is about."""

from __future__ import annotations

import time
from collections.abc import Iterable

from segue.base.logging import get_logger
from segue.proto.sampling_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP
from segue.proto.worker_pb2 import ROLE_DECODE, WORKER_STATE_DRAINING, KvEvents, RequestOutput, StepTokens
from segue.router.lifecycle.choice_run import ChoiceRun
from segue.router.lifecycle.conductor import Conductor
from segue.router.lifecycle.records import RouterObserver
from segue.router.lifecycle.request import Request
from segue.router.lifecycle.surroundings import Surroundings
from segue.router.workers.link import WorkerLink
from segue.router.workers.links import WorkerLinks

log = get_logger("router")

_FINISHED = (FINISH_REASON_STOP, FINISH_REASON_LENGTH)


class WorkerNews:
    """Listens to the :class:`~segue.router.workers.hub.WorkerHub`."""

    def __init__(self, links: WorkerLinks, conductor: Conductor, around: Surroundings) -> None:
        self._links = links
        self._conductor = conductor
        self._around = around

    def on_tokens(self, link: WorkerLink, tokens: StepTokens) -> None:
        observer = None if type(self._around.observer) is RouterObserver else self._around.observer
        streams, now_s = self._conductor.streams, time.monotonic()
        streams.push(link, tokens, now_s, lambda output: self.on_outputs(link, (output,)), observer)

    def on_outputs(self, link: WorkerLink, outputs: Iterable[RequestOutput]) -> None:
        now_s = time.monotonic()
        for output in outputs:
            if output.finish_reason in _FINISHED:
                self._links.circuits.succeeded(link.worker_id)
            known = self._conductor.answer_of(output.request_id)
            if known is None:
                if output.HasField("offer"):
                    link.release(output.offer, "cancelled")
                continue
            request, run = known
            if output.token_ids:
                link.meter.began(output.request_id, now_s)
            if output.finish_reason:
                link.meter.produced(output.request_id, self._conductor.streams.tokens_of(run))
            if output.HasField("transfer"):
                self._on_transfer(link, request, run, output)
            had, since_s = run.output_tokens, run.timings.last_s
            actions = run.on_output(link.worker_id, output, now_s)
            if run.output_tokens > had:
                self._tell_tokens(request, run, had, now_s - since_s)
            self._conductor.do(request, run, actions)
        self._conductor.waiting.look_soon()

    def on_kv_events(self, link: WorkerLink, events: KvEvents) -> None:
        self._around.placement.on_kv_events(link, events)

    def on_worker_lost(self, link: WorkerLink) -> None:
        self._around.placement.on_worker_lost(link)
        # All runs first: the first failure ends its whole request, and its other runs would forget their tickets.
        lost = [(request, run, run.on_worker_lost(link.worker_id)) for request, run in self._conductor]
        for request, run, actions in lost:
            self._conductor.do(request, run, actions)

    def on_worker_state(self, link: WorkerLink) -> None:
        """Move running requests off decode workers that drain, as soon as there is another one."""
        self._conductor.waiting.look_soon()
        decode = [link for link in self._links if link.register.role == ROLE_DECODE]
        draining = {link.worker_id for link in decode if link.status.state == WORKER_STATE_DRAINING}
        if not draining or not any(link.ready for link in decode):
            return
        for request, run in self._conductor:
            if run.worker_id in draining:
                self._conductor.do(request, run, run.move())

    def _on_transfer(self, link: WorkerLink, request: Request, run: ChoiceRun, output: RequestOutput) -> None:
        """Decode has loaded the KV cache, or computed the prompt again."""
        transfer = output.transfer
        producer_id = run.producer_id
        self._around.observer.on_transfer(request.slo_class, self._pool_of(producer_id), transfer)
        request.trace.transferred(run.run_id, transfer)
        if producer_id is not None:
            self._around.placement.on_transfer(producer_id, link.worker_id, transfer)
        if not transfer.error:
            return
        log.warning(
            "kv_transfer_failed",
            request_id=request.request_id,
            leg=run.leg_id,
            error=transfer.error,
            corrupt=transfer.corrupt,
        )
        # Whose fault was it?
        unreachable = transfer.error.startswith(("UNAVAILABLE", "DEADLINE_EXCEEDED"))
        if run.held is not None and (transfer.corrupt or unreachable):
            self._links.circuits.failed(run.held.ticket.producer_id, time.monotonic())

    def _pool_of(self, producer_id: str | None) -> str:
        """Of a KV cache: decode's are those of answers that were moved."""
        producer = None if producer_id is None else self._links.get(producer_id)
        return "decode" if producer is not None and producer.register.role == ROLE_DECODE else "prefill"

    def _tell_tokens(self, request: Request, run: ChoiceRun, had: int, gap_s: float) -> None:
        """Of tokens that took the long way, so many seconds after those before them. Several in one step come with no
        time between them."""
        gaps_s = [gap_s, *[0.0] * (run.output_tokens - had - 1)]
        observer = self._around.observer
        if not had:
            del gaps_s[0]
            if run.index == 0:
                request.trace.first_token()
                observer.on_first_token(request.slo_class, run.timings.first_token())
        if gaps_s:
            observer.on_tokens(request.slo_class, run.timings.pool, gaps_s)
