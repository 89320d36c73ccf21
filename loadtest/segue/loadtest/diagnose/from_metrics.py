"""Evidence from a router's /metrics, looked at twice. The names are those of docs/observability.md."""

from __future__ import annotations

from segue.loadtest.diagnose.evidence import Evidence, PoolEvidence, Promise, RouterEvidence, TransferEvidence
from segue.loadtest.diagnose.scrape import Window
from segue.loadtest.measure.slo import Slo


class NotARouter(ValueError):
    """The page has none of the router's metrics."""


def evidence_of_metrics(window: Window, source: str, slo: Slo) -> Evidence:
    """``slo`` is what means are held against. Raises NotARouter for another process's page."""
    if not list(window.after.values("segue_router_info")):
        raise NotARouter(f"{source} has no segue_router_info: it is not a Segue router's /metrics")
    transfers_per_s = window.rate("segue_kv_transfer_seconds_count")
    transfer_s = window.mean("segue_kv_transfer_seconds")
    transfer = None
    if transfer_s is not None:
        bytes_mean = window.rate("segue_kv_transfer_bytes_total") / transfers_per_s
        transfer = TransferEvidence(transfer_s, transfers_per_s, bytes_mean, window.mean("segue_handoff_seconds"))
    ttft_s = window.mean("segue_time_to_first_token_seconds")
    per_token_s = window.mean("segue_time_per_output_token_seconds")
    prompt_per_s = window.rate("segue_prompt_tokens_total")
    cached_per_s = window.rate("segue_cached_prompt_tokens_total")
    met, missed = (window.rate("segue_slo_requests_total", slo=word) for word in ("met", "missed"))
    queue = _queue(window)
    return Evidence(
        source=source,
        window_s=window.seconds,
        requests_per_s=window.rate("segue_requests_total", outcome="ok"),
        refused_per_s=window.rate("segue_requests_refused_total"),
        prefill=_pool(window, "prefill", _busy(window, prompt_per_s - cached_per_s)),
        decode=_pool(window, "decode", None),
        router=RouterEvidence(
            cpu_cores=window.rate("process_cpu_seconds_total"),
            loop_lag_s=window.quantile("segue_event_loop_lag_seconds", 0.99),
            own_lag_s=window.quantile("segue_event_loop_own_lag_seconds", 0.99),
            queue_s=queue[0],
            queue_bound_s=queue[1],
            queue_class=queue[2],
        ),
        transfer=transfer,
        ttft=None if ttft_s is None else Promise(ttft_s, slo.ttft_s),
        itl=None if per_token_s is None else Promise(per_token_s, slo.itl_s),
        prefill_s=window.mean("segue_prefill_seconds"),
        # The gaps at the router; the first one of a request is its hand-off, one among many.
        decode_itl_s=window.mean("segue_inter_token_latency_seconds") or per_token_s,
        cached_share=cached_per_s / prompt_per_s if prompt_per_s else None,
        slo_share=met / (met + missed) if met + missed else None,
    )


def _queue(window: Window) -> tuple[float | None, float | None, str]:
    """The mean wait of the class that it takes most of its promise from, the promise, and the class.

    Batch is promised nothing, so its wait says nothing. Of a router that doesn't tell its promises: the mean of all.
    """
    promised = {labels["slo_class"]: value for labels, value in window.after.values("segue_slo_first_token_seconds")}
    if not promised:
        return window.mean("segue_queue_seconds"), None, ""
    waits = {name: window.mean("segue_queue_seconds", slo_class=name) for name in promised}
    known = [(wait_s, promised[name], name) for name, wait_s in waits.items() if wait_s is not None]
    return max(known, key=lambda one: one[0] / one[1], default=(None, None, ""))


def _pool(window: Window, pool: str, busy: float | None) -> PoolEvidence:
    workers = round(window.after.total("segue_workers", pool=pool, state="ready"))

    def of_one(name: str) -> float | None:
        whole = window.gauge(name, pool=pool)
        return None if whole is None else whole / max(1, workers)

    return PoolEvidence(
        workers,
        running_requests=of_one("segue_worker_running_requests"),
        waiting_requests=of_one("segue_worker_waiting_requests"),
        waiting_tokens=of_one("segue_worker_waiting_prompt_tokens"),
        kv_usage=window.highest("segue_worker_kv_usage_ratio", pool=pool),
        busy=busy,
    )


def _busy(window: Window, computed_tokens_per_s: float) -> float | None:
    """Prompt tokens asked for by those the pool gets through when busy, as the router has measured it."""
    capacity_per_s = window.after.total("segue_worker_prefill_tokens_per_second", pool="prefill")
    return computed_tokens_per_s / capacity_per_s if capacity_per_s else None
