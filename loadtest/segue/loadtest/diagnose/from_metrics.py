"""Evidence from a router's /metrics, looked at twice. The names are those of docs/observability.md."""

from __future__ import annotations

from collections.abc import Mapping

from segue.loadtest.diagnose.evidence import (
    Evidence,
    PoolEvidence,
    Promise,
    RouterEvidence,
    TransferEvidence,
    most_strained,
)
from segue.loadtest.diagnose.scrape import Window
from segue.loadtest.measure.slo import STANDARD_SLOS, Slo


class NotARouter(ValueError):
    """The page has none of the router's metrics."""


def evidence_of_metrics(window: Window, source: str, slo: Slo | None = None) -> Evidence:
    """``slo`` is what the means of all requests are held against; without it each class's against what the router
    promises it. Raises NotARouter for another process's page."""
    _check_process(window, source)
    transfers_per_s = window.rate("segue_kv_transfer_seconds_count")
    transfer_s = window.mean("segue_kv_transfer_seconds")
    transfer = None
    if transfer_s is not None:
        bytes_mean = window.rate("segue_kv_transfer_bytes_total") / transfers_per_s
        transfer = TransferEvidence(transfer_s, transfers_per_s, bytes_mean, window.mean("segue_handoff_seconds"))
    first_token_s, token_s = _bounds(window, slo)
    # The gaps at the router; the first one of a request is its hand-off, one among many.
    gap = "segue_inter_token_latency_seconds"
    gap = gap if window.mean(gap) is not None else "segue_time_per_output_token_seconds"
    prompt_per_s = window.rate("segue_prompt_tokens_total")
    cached_per_s = window.rate("segue_cached_prompt_tokens_total")
    met, missed = (window.rate("segue_slo_requests_total", slo=word) for word in ("met", "missed"))
    return Evidence(
        source=source,
        window_s=window.seconds,
        requests_per_s=window.rate("segue_requests_total", outcome="ok"),
        refused_per_s=window.rate("segue_requests_refused_total"),
        prefill=_pool(window, "prefill", _busy(window, _prefilled_per_s(window, prompt_per_s - cached_per_s))),
        decode=_pool(window, "decode", None),
        router=RouterEvidence(
            cpu_cores=window.rate("process_cpu_seconds_total"),
            loop_lag_s=window.quantile("segue_event_loop_lag_seconds", 0.99),
            own_lag_s=window.quantile("segue_event_loop_own_lag_seconds", 0.99),
            queue=_held(window, "segue_queue_seconds", first_token_s),
        ),
        transfer=transfer,
        ttft=_held(window, "segue_time_to_first_token_seconds", first_token_s),
        prefill_s=window.mean("segue_prefill_seconds", pool="prefill") or window.mean("segue_prefill_seconds"),
        prefilled_share=_prefilled_share(window),
        decode_itl_s=window.mean(gap),
        cached_share=cached_per_s / prompt_per_s if prompt_per_s else None,
        slo_share=met / (met + missed) if met + missed else None,
        prefill_part=_held(window, "segue_prefill_seconds", first_token_s),
        decode_pace=_held(window, gap, token_s),
    )


def _check_process(window: Window, source: str) -> None:
    looks = [
        {labels["router_id"] for labels, _ in look.values("segue_router_info")}
        for look in (window.before, window.after)
    ]
    if not looks[1]:
        raise NotARouter(f"{source} has no segue_router_info: it is not a Segue router's /metrics")
    if looks[0] != looks[1]:
        before, after = (", ".join(sorted(look)) or "none" for look in looks)
        raise NotARouter(
            f"{source} was answered by router {before} first and by {after} then, whose counters have nothing to do "
            "with each other; look at one process: several behind one port have a --metrics-port each"
        )


def _prefilled_share(window: Window) -> float:
    """Of the requests that got a first token, those whose prompts prefill workers computed."""
    prefilled, decode = (window.rate("segue_prefill_seconds_count", pool=pool) for pool in ("prefill", "decode"))
    return prefilled / (prefilled + decode) if prefilled + decode else 1.0


def _prefilled_per_s(window: Window, computed_per_s: float) -> float:
    """Prompt tokens that prefill workers computed a second; those of both pools where the router doesn't tell."""
    if not any(window.after.values("segue_prefill_computed_tokens_total")):
        return computed_per_s
    return window.rate("segue_prefill_computed_tokens_total")


def _bounds(window: Window, slo: Slo | None) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Seconds promised for the first token and from token to token, by class; of all requests together under ""."""
    first_token_s, tokens_per_s = (
        {labels["slo_class"]: value for labels, value in window.after.values(name)}
        for name in ("segue_slo_first_token_seconds", "segue_slo_tokens_per_second")
    )
    if slo is None and (first_token_s or tokens_per_s):
        return first_token_s, {name: 1 / pace for name, pace in tokens_per_s.items()}
    slo = slo or STANDARD_SLOS[""]  # The router doesn't tell what it promises.
    return {"": slo.ttft_s}, {"": slo.itl_s}


def _held(window: Window, histogram: str, bounds_s: Mapping[str, float]) -> Promise | None:
    """The mean of the class that it takes most from of its promise, against that."""
    means = {name: window.mean(histogram, **({"slo_class": name} if name else {})) for name in bounds_s}
    return most_strained(Promise(mean_s, bounds_s[name], name) for name, mean_s in means.items() if mean_s is not None)


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
