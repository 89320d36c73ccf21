"""Counts what happens to requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from segue.base.errors import Cancelled, DeadlineExceeded, InvalidRequest, Overloaded
from segue.base.loop_lag import LOOP_LAG, LOOP_LAG_OWN, Lag
from segue.base.metrics import Exposition, Histogram
from segue.proto.inference_pb2 import Path
from segue.proto.worker_pb2 import Transfer
from segue.router.lifecycle.records import FirstToken, Interrupted, RequestRecord, RouterObserver
from segue.router.metrics import catalogue
from segue.router.metrics.tenants import Tenants
from segue.router.metrics.totals import Totals
from segue.router.metrics.window import Look, Looks
from segue.router.queueing.slo import SloClass, SloClasses

_CLIENTS_DOING = frozenset({Cancelled.default_code, InvalidRequest.default_code})
_NO_FAILURES = _CLIENTS_DOING | {"ok"}
_EXACTLY = 1.0 + 1e-6  # Timings are single-precision.


def meets(slo: SloClass, record: RequestRecord) -> bool:
    """Whether an answer came in time. One token has no pace."""
    timings = record.timings
    paced = not slo.tokens_per_s or timings.itl_mean_s * slo.tokens_per_s <= _EXACTLY
    return record.outcome == "ok" and (not slo.ttft_s or timings.ttft_s <= slo.ttft_s * _EXACTLY) and paced


def _judge(totals: Totals, slo: SloClass, record: RequestRecord) -> None:
    """Each half of a promise by itself. What failed for another reason than time says nothing of either."""
    if record.outcome not in ("ok", DeadlineExceeded.default_code):
        return
    timings = record.timings
    if slo.ttft_s:
        totals.first_judged += 1
        totals.first_met += 0 < timings.ttft_s <= slo.ttft_s * _EXACTLY
    if slo.tokens_per_s and timings.itl_mean_s:
        totals.pace_judged += 1
        totals.pace_met += timings.itl_mean_s * slo.tokens_per_s <= _EXACTLY


class RouterMetrics(RouterObserver):
    """One router's counters. ``max_tenants`` bounds how many tenants are named; those who come later count together."""

    def __init__(self, exposition: Exposition, classes: SloClasses, max_tenants: int = 100) -> None:
        self._promised = {one.name: one for one in classes if one.ttft_s or one.tokens_per_s}
        self.totals: dict[str, Totals] = {one.name: Totals() for one in classes}
        self._tenants = Tenants(max_tenants)
        self.ttft = exposition.histogram(catalogue.TTFT)
        self.itl = exposition.histogram(catalogue.ITL)
        self._loop_lag = exposition.histogram(LOOP_LAG)
        self._loop_lag_own = exposition.histogram(LOOP_LAG_OWN)
        self._tpot = exposition.histogram(catalogue.TPOT)
        self._end_to_end = exposition.histogram(catalogue.END_TO_END)
        self._queue = exposition.histogram(catalogue.QUEUE)
        self._prefill = exposition.histogram(catalogue.PREFILL)
        self._handoff = exposition.histogram(catalogue.HANDOFF)
        self._decode = exposition.histogram(catalogue.DECODE)
        self._kv_transfer = exposition.histogram(catalogue.KV_TRANSFER)
        self.requests = exposition.counter(catalogue.REQUESTS)
        self.refused = exposition.counter(catalogue.REFUSED)
        self.slo = exposition.counter(catalogue.SLO)
        self._by_path = exposition.counter(catalogue.BY_PATH)
        self._continuations = exposition.counter(catalogue.CONTINUATIONS)
        exposition.read(self._tenants.readings)
        self._prefilled_tokens = exposition.counter(catalogue.PREFILLED_TOKENS)
        self._kv_transfers = exposition.counter(catalogue.KV_TRANSFERS)
        self.kv_bytes = exposition.counter(catalogue.KV_BYTES)

        self._prefilled_tokens.add(0)
        for one in classes:  # Prometheus sees the first of anything only if there was a 0 before it.
            self.requests.add(0, one.name, "ok")
            if one.name in self._promised:
                self.slo.add(0, one.name, "met")
                self.slo.add(0, one.name, "missed")

    def on_lag(self, lag: Lag) -> None:
        """The event loop has been sampled."""
        self._loop_lag.observe(lag.seconds)
        self._loop_lag_own.observe(lag.own_s)

    def on_refused(self, tenant: str, slo_class: str, code: str) -> None:
        self.refused.add(1, slo_class, code)
        totals = self._of(slo_class)
        totals.refused += 1
        totals.busy += code == Overloaded.default_code

    def on_accepted(self, slo_class: str, prompt_tokens: int) -> None:
        totals = self._of(slo_class)
        totals.accepted += 1
        totals.accepted_tokens += prompt_tokens

    def on_first_token(self, slo_class: str, first: FirstToken) -> None:
        self.ttft.observe(first.ttft_s, slo_class, first.pool)
        self._queue.observe(first.queue_s, slo_class, first.pool)
        self._prefill.observe(first.prefill_s, slo_class, first.pool)

    def on_tokens(self, slo_class: str, pool: str, itl_s: Sequence[float]) -> None:
        self.itl.at(slo_class, pool).observe_all(itl_s)

    def on_transfer(self, slo_class: str, pool: str, transfer: Transfer) -> None:
        outcome = "corrupt" if transfer.corrupt else "failed" if transfer.error else "ok"
        self._kv_transfers.add(1, transfer.transport, outcome)
        if outcome == "ok":
            self.kv_bytes.add(transfer.bytes, transfer.transport)
            self._of(slo_class).transfer_bytes += transfer.bytes
            self._kv_transfer.observe(transfer.seconds, slo_class, pool, transfer.transport)

    def on_interrupted(self, slo_class: str, cause: Interrupted) -> None:
        self._continuations.add(1, slo_class, cause)

    def on_finished(self, record: RequestRecord) -> None:
        totals = self._of(record.slo_class)
        self.requests.add(1, record.slo_class, record.outcome)
        totals.requests += 1
        totals.failed += record.outcome not in _NO_FAILURES
        totals.prompt_tokens += record.usage.prompt_tokens
        totals.cached_tokens += record.usage.cached_prompt_tokens
        self._prefilled_tokens.add(record.timings.prefill_computed_tokens)
        self._tenants.count(record)
        self._count_times(record)
        slo = self._promised.get(record.slo_class)
        if slo is not None and record.outcome not in _CLIENTS_DOING:
            met = meets(slo, record)
            self.slo.add(1, record.slo_class, "met" if met else "missed")
            totals.judged += 1
            totals.met += met
            _judge(totals, slo, record)
        if record.outcome == "ok":
            totals.answered += 1
            totals.output_tokens += record.usage.output_tokens
            path = Path.Name(record.timings.path).removeprefix("PATH_").lower()
            self._by_path.add(1, path)

    def _count_times(self, record: RequestRecord) -> None:
        """Of a request that failed or was cancelled after its hand-off, that."""
        timings, slo_class = record.timings, record.slo_class
        if not record.usage.output_tokens:
            return
        if timings.prefill_worker and timings.decode_worker:
            self._handoff.observe(timings.handoff_s, slo_class)
        if record.outcome != "ok":
            return
        pool = "prefill" if timings.prefill_worker else "decode"
        self._end_to_end.observe(record.end_to_end_s, slo_class, pool)
        if timings.decode_worker:
            self._decode.observe(timings.decode_s, slo_class, pool)
        if timings.itl_mean_s:
            self._tpot.observe(timings.itl_mean_s, slo_class, pool)

    def look(self) -> Looks:
        """All classes as they are now, for the window."""
        return {
            name: Look(totals.copy(), _of_both_pools(self.ttft, name), _of_both_pools(self.itl, name))
            for name, totals in self.totals.items()
        }

    def _of(self, slo_class: str) -> Totals:
        found = self.totals.get(slo_class)
        if found is None:
            found = self.totals[slo_class] = Totals()
        return found


def _of_both_pools(histogram: Histogram, slo_class: str) -> np.ndarray:
    counts = histogram.at(slo_class, "prefill").counts
    counts += histogram.at(slo_class, "decode").counts
    return counts
