"""Counts what a worker's engine does, one engine step at a time."""

from __future__ import annotations

import time
from collections.abc import Sequence

from segue.base.loop_lag import LOOP_LAG, LOOP_LAG_OWN, Lag
from segue.base.metrics import Exposition
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import Load, Register, RequestError, RequestOutput, Submit
from segue.worker.metrics import catalogue
from segue.worker.metrics.by_role import labels_of
from segue.worker.observer import WorkerObserver


class WorkerMetrics(WorkerObserver):
    """One worker's counters."""

    def __init__(self, exposition: Exposition, register: Register) -> None:
        self.on_role(register)
        self._loop_lag = exposition.histogram(LOOP_LAG)
        self._loop_lag_own = exposition.histogram(LOOP_LAG_OWN)
        self._step = exposition.histogram(catalogue.STEP)
        self._steps = exposition.counter(catalogue.STEPS)
        self._legs = exposition.counter(catalogue.LEGS)
        self._leg = exposition.histogram(catalogue.LEG)
        self._queue = exposition.histogram(catalogue.QUEUE)
        self._compute = exposition.histogram(catalogue.COMPUTE)
        self._transfer = exposition.histogram(catalogue.TRANSFER)
        self._transfer_bytes = exposition.counter(catalogue.TRANSFER_BYTES)
        self._transfers = exposition.counter(catalogue.TRANSFERS)
        self._steps_seen = 0
        self._taken_at_s: dict[str, float] = {}
        for counter in (self._steps, self._transfer_bytes):
            counter.add(0, *self.labels)

    def on_lag(self, lag: Lag) -> None:
        """The event loop has been sampled."""
        self._loop_lag.observe(lag.seconds)
        self._loop_lag_own.observe(lag.own_s)

    def on_role(self, register: Register) -> None:
        self.labels = labels_of(register)

    def on_taken(self, submit: Submit) -> None:
        self._taken_at_s[submit.request_id] = time.monotonic()

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        """Take what the engine said. Loads are told again and again; a step is counted once."""
        if load.steps > self._steps_seen:
            self._steps.add(load.steps - self._steps_seen, *self.labels)
            self._steps_seen = load.steps
            self._step.observe(load.step_s, *self.labels)
        for output in outputs:
            if output.HasField("usage"):
                self._queue_and_compute(output)
            if output.HasField("transfer"):
                self._on_transfer(output)

    def on_over(self, last: RequestOutput) -> None:
        self._legs.add(1, *self.labels, outcome(last))
        if (taken_at_s := self._taken_at_s.pop(last.request_id, None)) is not None:
            self._leg.observe(time.monotonic() - taken_at_s, *self.labels)

    def _queue_and_compute(self, output: RequestOutput) -> None:
        usage = output.usage
        if usage.queue_s or usage.compute_s:
            self._queue.observe(usage.queue_s, *self.labels)
            self._compute.observe(usage.compute_s, *self.labels)

    def _on_transfer(self, output: RequestOutput) -> None:
        transfer = output.transfer
        ended = "corrupt" if transfer.corrupt else "failed" if transfer.error else "ok"
        self._transfers.add(1, *self.labels, ended)
        if ended == "ok":
            self._transfer.observe(transfer.seconds, *self.labels)
            self._transfer_bytes.add(transfer.bytes, *self.labels)


def outcome(output: RequestOutput) -> str:
    """How a leg ended: ``stop``, ``length``, ``abort``, or the kind of its error."""
    if output.HasField("error"):
        return RequestError.Kind.Name(output.error.kind).removeprefix("KIND_").lower()
    return FinishReason.Name(output.finish_reason).removeprefix("FINISH_REASON_").lower()
