"""What the Grafana dashboard shows: rows of panels, each of them PromQL by legend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_ROUTER = 'instance=~"$router"'
_CLASS = f'{_ROUTER}, slo_class=~"$slo_class"'


@dataclass(frozen=True)
class Panel:
    """``queries`` are PromQL by legend. ``unit`` is Grafana's. ``width`` of 24 columns."""

    title: str
    queries: dict[str, str]
    unit: str = "short"
    about: str = ""
    kind: str = "timeseries"
    width: int = 8
    stacked: bool = False


@dataclass(frozen=True)
class Row:
    title: str
    panels: Sequence[Panel]


def quantiles(metric: str, labels: str, by: str = "slo_class") -> dict[str, str]:
    """p50, p90 and p99 of a histogram, over routers, apart by one label."""
    rates = f"sum by (le, {by}) (rate({metric}_bucket{{{labels}}}[$__rate_interval]))"
    return {f"{{{{{by}}}}} p{round(q * 100)}": f"histogram_quantile({q}, {rates})" for q in (0.5, 0.9, 0.99)}


def rate(metric: str, labels: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def total(metric: str, labels: str) -> str:
    return f"sum(rate({metric}{{{labels}}}[$__rate_interval]))"


def of_workers(metric: str, by: str = "worker, pool") -> str:
    """Every router sees the whole fleet: one of them is enough."""
    return f"max by ({by}) ({metric}{{{_ROUTER}}})"


def of_links(figure: str) -> str:
    """Of each pair of workers. Routers measure apart; the largest figure is shown."""
    return f"max by (prefill_worker, decode_worker) (segue_kv_link_{figure}{{{_ROUTER}}})"


_TTFT, _ITL = "segue_time_to_first_token_seconds", "segue_inter_token_latency_seconds"
_SLO = "segue_slo_requests_total"
_MET = f'{_CLASS}, slo="met"'

ROWS = (
    Row(
        "At a glance",
        (
            Panel("Requests", {"": total("segue_requests_total", _CLASS)}, "reqps", kind="stat", width=4),
            Panel(
                "Output tokens",
                {"": f"{total(f'{_ITL}_count', _CLASS)} + {total(f'{_TTFT}_count', _CLASS)}"},
                "short",
                "A second, while they stream: gaps between tokens, and first tokens.",
                kind="stat",
                width=4,
            ),
            Panel(
                "Within SLO",
                {"": f"{total(_SLO, _MET)} / {total(_SLO, _CLASS)}"},
                "percentunit",
                "Of requests whose class promises something.",
                kind="stat",
                width=4,
            ),
            Panel(
                "TTFT p99",
                {"": f"histogram_quantile(0.99, sum by (le) (rate({_TTFT}_bucket{{{_CLASS}}}[$__rate_interval])))"},
                "s",
                kind="stat",
                width=4,
            ),
            Panel(
                "ITL p99",
                {"": f"histogram_quantile(0.99, sum by (le) (rate({_ITL}_bucket{{{_CLASS}}}[$__rate_interval])))"},
                "s",
                kind="stat",
                width=4,
            ),
            Panel("Refused", {"": total("segue_requests_refused_total", _CLASS)}, "reqps", kind="stat", width=4),
        ),
    ),
    Row(
        "Latency",
        (
            Panel("Time to first token", quantiles(_TTFT, _CLASS), "s"),
            Panel("Inter-token latency", quantiles(_ITL, _CLASS), "s"),
            Panel("End to end", quantiles("segue_end_to_end_seconds", _CLASS), "s"),
            Panel("Router's queue", quantiles("segue_queue_seconds", _CLASS), "s", "Accepted -> sent to a worker."),
            Panel(
                "Prefill",
                quantiles("segue_prefill_seconds", _CLASS, "pool"),
                "s",
                "By the pool that computed the prompt.",
            ),
            Panel(
                "Hand-off",
                quantiles("segue_handoff_seconds", _CLASS),
                "s",
                "First token -> decode's first one: KV transfer, decode's queue, one step. Clients see it as one gap.",
            ),
            Panel("Decode", quantiles("segue_decode_seconds", _CLASS), "s"),
            Panel(
                "Time per output token",
                quantiles("segue_time_per_output_token_seconds", _CLASS),
                "s",
                "Request by request.",
            ),
            Panel(
                "TTFT p99 by pool",
                {
                    "{{pool}}": "histogram_quantile(0.99, sum by (le, pool) "
                    f"(rate({_TTFT}_bucket{{{_CLASS}}}[$__rate_interval])))"
                },
                "s",
                "Where the first token was computed: decode computes prompts itself where that is faster.",
            ),
        ),
    ),
    Row(
        "Requests",
        (
            Panel(
                "Requests by outcome",
                {"{{outcome}}": rate("segue_requests_total", _CLASS, "outcome")},
                "reqps",
                stacked=True,
            ),
            Panel(
                "Refusals by reason", {"{{reason}}": rate("segue_requests_refused_total", _CLASS, "reason")}, "reqps"
            ),
            Panel(
                "Within SLO by class",
                {"{{slo_class}}": rate(_SLO, _MET, "slo_class") + " / " + rate(_SLO, _CLASS, "slo_class")},
                "percentunit",
            ),
            Panel(
                "Goodput",
                {"{{slo_class}}": rate(_SLO, _MET, "slo_class")},
                "reqps",
                "Requests that were answered within their class's SLO.",
            ),
            Panel(
                "Running and queued",
                {
                    "running": f"sum(segue_running_requests{{{_ROUTER}}})",
                    "queued {{slo_class}}": f"sum by (slo_class) (segue_queued_requests{{{_CLASS}}})",
                },
            ),
            Panel("Queued prompt tokens", {"tokens": f"sum(segue_queued_prompt_tokens{{{_ROUTER}}})"}),
            Panel(
                "Answers by path",
                {"{{path}}": rate("segue_requests_by_path_total", _ROUTER, "path")},
                "reqps",
                stacked=True,
            ),
            Panel(
                "Continuations",
                {"{{reason}}": rate("segue_continuations_total", _CLASS, "reason")},
                "reqps",
                "Answers that went on elsewhere: after a drain, a loss, a failure.",
            ),
        ),
    ),
    Row(
        "Tokens, tenants, cost",
        (
            Panel(
                "Prompt tokens",
                {
                    "computed": f"{total('segue_prompt_tokens_total', _ROUTER)}"
                    f" - {total('segue_cached_prompt_tokens_total', _ROUTER)}",
                    "cached": total("segue_cached_prompt_tokens_total", _ROUTER),
                },
                stacked=True,
                about="A second, as requests end.",
            ),
            Panel(
                "Prefix hit rate",
                {
                    "of prompt tokens": f"{total('segue_cached_prompt_tokens_total', _ROUTER)}"
                    f" / {total('segue_prompt_tokens_total', _ROUTER)}"
                },
                "percentunit",
            ),
            Panel(
                "Requests by tenant", {"{{tenant}}": rate("segue_tenant_requests_total", _ROUTER, "tenant")}, "reqps"
            ),
            Panel("Output tokens by tenant", {"{{tenant}}": rate("segue_output_tokens_total", _ROUTER, "tenant")}),
            Panel(
                "Cost an hour",
                {"{{tenant}} {{currency}}": f"3600 * {rate('segue_cost_total', _ROUTER, 'tenant, currency')}"},
                about="By the router's price table, if it has one.",
            ),
        ),
    ),
    Row(
        "Pools and workers",
        (
            Panel("Workers by state", {"{{pool}} {{state}}": of_workers("segue_workers", "pool, state")}),
            Panel("Running requests", {"{{worker}}": of_workers("segue_worker_running_requests")}),
            Panel("Waiting requests", {"{{worker}}": of_workers("segue_worker_waiting_requests")}),
            Panel("Waiting prompt tokens", {"{{worker}}": of_workers("segue_worker_waiting_prompt_tokens")}),
            Panel("KV cache in use", {"{{worker}}": of_workers("segue_worker_kv_usage_ratio")}, "percentunit"),
            Panel(
                "Free KV blocks of a pool",
                {
                    "{{pool}} free": f"sum by (pool) ({of_workers('segue_worker_free_kv_blocks')})",
                    "{{pool}} all": f"sum by (pool) ({of_workers('segue_worker_kv_blocks')})",
                },
            ),
            Panel(
                "Outstanding leases",
                {
                    "{{worker}} offers": of_workers("segue_worker_held_offers"),
                    "tickets held by routers": f"sum(segue_held_tickets{{{_ROUTER}}})",
                },
            ),
            Panel("Open circuits", {"{{worker}}": of_workers("segue_worker_circuit_open")}),
            Panel("Prefill rate, measured", {"{{worker}}": of_workers("segue_worker_prefill_tokens_per_second")}),
            Panel("Last step", {"{{worker}}": of_workers("segue_worker_step_seconds")}, "s"),
            Panel(
                "Silence",
                {"{{worker}}": of_workers("segue_worker_silence_seconds")},
                "s",
                "At the lease it is dropped.",
            ),
            Panel(
                "Assigned by routers",
                {
                    "{{worker}} requests": f"sum by (worker) (segue_worker_assigned_requests{{{_ROUTER}}})",
                    "{{worker}} prompt tokens": f"sum by (worker) (segue_worker_assigned_prompt_tokens{{{_ROUTER}}})",
                },
            ),
        ),
    ),
    Row(
        "KV transfer",
        (
            Panel("Bytes", {"{{transport}}": rate("segue_kv_transfer_bytes_total", _ROUTER, "transport")}, "Bps"),
            Panel("Transfer time", quantiles("segue_kv_transfer_seconds", _CLASS, "transport"), "s"),
            Panel("Transfers by outcome", {"{{outcome}}": rate("segue_kv_transfers_total", _ROUTER, "outcome")}, "ops"),
            Panel(
                "Slowest links",
                {
                    "{{prefill_worker}} to {{decode_worker}}": f"bottomk(10, {of_links('bytes_per_second')})",
                    "all": f"max(segue_kv_transfer_bytes_per_second{{{_ROUTER}}})",
                },
                "Bps",
                "How fast KV caches travel between two workers once they do, as measured.",
            ),
            Panel(
                "Latency of links",
                {"{{prefill_worker}} to {{decode_worker}}": f"topk(10, {of_links('fixed_seconds')})"},
                "s",
                "What a transfer takes whatever its size; the ten longest.",
            ),
            Panel(
                "Links with a rate of their own",
                {"": f"sum({of_links('differs')})"},
                about="Pairs so much slower or faster than the rest that requests are routed by their own rate.",
            ),
        ),
    ),
    Row(
        "Routers",
        (
            Panel("Event loop lag", quantiles("segue_event_loop_lag_seconds", _ROUTER, "instance"), "s"),
            Panel(
                "Processor",
                {"{{instance}}": f"rate(process_cpu_seconds_total{{{_ROUTER}}}[$__rate_interval])"},
                "percentunit",
                "Of one core.",
            ),
            Panel("Memory", {"{{instance}}": f"process_resident_memory_bytes{{{_ROUTER}}}"}, "bytes"),
            Panel("Prefix index", {"{{instance}} blocks": f"segue_prefix_index_blocks{{{_ROUTER}}}"}),
            Panel(
                "Blocks forgotten for lack of room",
                {"{{instance}}": f"rate(segue_prefix_index_dropped_blocks_total{{{_ROUTER}}}[$__rate_interval])"},
            ),
            Panel("Draining", {"{{instance}}": f"segue_router_draining{{{_ROUTER}}}"}),
        ),
    ),
    Row(
        "Engines, by the workers' own endpoints",
        (
            Panel("Step", quantiles("segue_engine_step_seconds", "", "pool"), "s"),
            Panel("Engine's queue", quantiles("segue_engine_queue_seconds", "", "pool"), "s"),
            Panel("Scheduled -> first token", quantiles("segue_engine_compute_seconds", "", "pool"), "s"),
            Panel(
                "Input tokens by source",
                {"{{pool}} {{source}}": rate("segue_engine_input_tokens_total", "", "pool, source")},
                stacked=True,
            ),
            Panel(
                "Sampled tokens",
                {"{{worker}}": rate("segue_engine_generated_tokens_total", "", "worker")},
            ),
            Panel(
                "Legs by outcome",
                {"{{pool}} {{outcome}}": rate("segue_engine_legs_total", "", "pool, outcome")},
                "ops",
            ),
        ),
    ),
)
