"""What the Grafana dashboard shows: rows of panels, each of them PromQL by legend."""

from __future__ import annotations

from observability.grafana.queries import (
    CLASS,
    ROUTER,
    Panel,
    Row,
    of_links,
    of_workers,
    p99_by_pool,
    quantiles,
    rate,
    total,
)

_TTFT, _ITL = "segue_time_to_first_token_seconds", "segue_inter_token_latency_seconds"
_SLO = "segue_slo_requests_total"
_MET = f'{CLASS}, slo="met"'

ROWS = (
    Row(
        "At a glance",
        (
            Panel("Requests", {"": total("segue_requests_total", CLASS)}, "reqps", kind="stat", width=4),
            Panel(
                "Output tokens",
                {"": f"{total(f'{_ITL}_count', CLASS)} + {total(f'{_TTFT}_count', CLASS)}"},
                "short",
                "A second, while they stream: gaps between tokens, and first tokens.",
                kind="stat",
                width=4,
            ),
            Panel(
                "Within SLO",
                {"": f"{total(_SLO, _MET)} / {total(_SLO, CLASS)}"},
                "percentunit",
                "Of requests whose class promises something.",
                kind="stat",
                width=4,
            ),
            Panel(
                "TTFT p99",
                {"": f"histogram_quantile(0.99, sum by (le) (rate({_TTFT}_bucket{{{CLASS}}}[$__rate_interval])))"},
                "s",
                kind="stat",
                width=4,
            ),
            Panel(
                "ITL p99",
                {"": f"histogram_quantile(0.99, sum by (le) (rate({_ITL}_bucket{{{CLASS}}}[$__rate_interval])))"},
                "s",
                kind="stat",
                width=4,
            ),
            Panel("Refused", {"": total("segue_requests_refused_total", CLASS)}, "reqps", kind="stat", width=4),
        ),
    ),
    Row(
        "Latency",
        (
            Panel(
                "Time to first token",
                quantiles(_TTFT, CLASS)
                | {"{{slo_class}} promised": f"max by (slo_class) (segue_slo_first_token_seconds{{{CLASS}}})"},
                "s",
            ),
            Panel("Inter-token latency", quantiles(_ITL, CLASS), "s"),
            Panel("End to end", quantiles("segue_end_to_end_seconds", CLASS), "s"),
            Panel("Router's queue", quantiles("segue_queue_seconds", CLASS), "s", "Accepted -> sent to a worker."),
            Panel(
                "Prefill",
                quantiles("segue_prefill_seconds", CLASS, "pool"),
                "s",
                "By the pool that computed the prompt.",
            ),
            Panel(
                "Hand-off",
                quantiles("segue_handoff_seconds", CLASS),
                "s",
                "First token -> decode's first one: KV transfer, decode's queue, one step. Clients see it as one gap.",
            ),
            Panel("Decode", quantiles("segue_decode_seconds", CLASS), "s"),
            Panel(
                "Time per output token",
                quantiles("segue_time_per_output_token_seconds", CLASS),
                "s",
                "Request by request.",
            ),
            Panel(
                "TTFT p99 by pool",
                p99_by_pool(_TTFT),
                "s",
                "By the pool that computed the prompt: decode does so itself where that is faster.",
            ),
            Panel("ITL p99 by pool", p99_by_pool(_ITL), "s", "Of a hand-off the first gap is one."),
            Panel("End to end p99 by pool", p99_by_pool("segue_end_to_end_seconds"), "s"),
            Panel("Router's queue p99 by pool", p99_by_pool("segue_queue_seconds"), "s"),
        ),
    ),
    Row(
        "Requests",
        (
            Panel(
                "Requests by outcome",
                {"{{outcome}}": rate("segue_requests_total", CLASS, "outcome")},
                "reqps",
                stacked=True,
            ),
            Panel("Refusals by reason", {"{{reason}}": rate("segue_requests_refused_total", CLASS, "reason")}, "reqps"),
            Panel(
                "Within SLO by class",
                {"{{slo_class}}": rate(_SLO, _MET, "slo_class") + " / " + rate(_SLO, CLASS, "slo_class")},
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
                    "running": f"sum(segue_running_requests{{{ROUTER}}})",
                    "queued {{slo_class}}": f"sum by (slo_class) (segue_queued_requests{{{CLASS}}})",
                },
            ),
            Panel("Queued prompt tokens", {"tokens": f"sum(segue_queued_prompt_tokens{{{ROUTER}}})"}),
            Panel(
                "Answers by path",
                {"{{path}}": rate("segue_requests_by_path_total", ROUTER, "path")},
                "reqps",
                stacked=True,
            ),
            Panel(
                "Continuations",
                {"{{reason}}": rate("segue_continuations_total", CLASS, "reason")},
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
                    "computed": f"{total('segue_prompt_tokens_total', ROUTER)}"
                    f" - {total('segue_cached_prompt_tokens_total', ROUTER)}",
                    "cached": total("segue_cached_prompt_tokens_total", ROUTER),
                },
                stacked=True,
                about="A second, as requests end.",
            ),
            Panel(
                "Prefix hit rate",
                {
                    "of prompt tokens": f"{total('segue_cached_prompt_tokens_total', ROUTER)}"
                    f" / {total('segue_prompt_tokens_total', ROUTER)}"
                },
                "percentunit",
            ),
            Panel("Requests by tenant", {"{{tenant}}": rate("segue_tenant_requests_total", ROUTER, "tenant")}, "reqps"),
            Panel("Output tokens by tenant", {"{{tenant}}": rate("segue_output_tokens_total", ROUTER, "tenant")}),
            Panel(
                "Seconds by tenant",
                {"{{tenant}} {{part}}": rate("segue_tenant_seconds_total", ROUTER, "tenant, part")},
                about="In prefill, KV transfer and decode; a second: how many requests are there at a time.",
            ),
            Panel(
                "Cost an hour",
                {"{{tenant}} {{currency}}": f"3600 * {rate('segue_cost_total', ROUTER, 'tenant, currency')}"},
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
                    "tickets held by routers": f"sum(segue_held_tickets{{{ROUTER}}})",
                },
            ),
            Panel("Open circuits", {"{{worker}}": of_workers("segue_worker_circuit_open")}),
            Panel("Prefill rate, measured", {"{{worker}}": of_workers("segue_worker_prefill_tokens_per_second")}),
            Panel("Last step", {"{{worker}}": of_workers("segue_worker_step_seconds")}, "s"),
            Panel(
                "Crowding: what a busy prefill worker adds to a step",
                {"{{worker}}": of_workers("segue_worker_crowding_ratio")},
                "percentunit",
            ),
            Panel(
                "Silence",
                {"{{worker}}": of_workers("segue_worker_silence_seconds")},
                "s",
                "At the lease it is dropped.",
            ),
            Panel(
                "Assigned by routers",
                {
                    "{{worker}} requests": f"sum by (worker) (segue_worker_assigned_requests{{{ROUTER}}})",
                    "{{worker}} prompt tokens": f"sum by (worker) (segue_worker_assigned_prompt_tokens{{{ROUTER}}})",
                },
            ),
        ),
    ),
    Row(
        "KV transfer",
        (
            Panel("Bytes", {"{{transport}}": rate("segue_kv_transfer_bytes_total", ROUTER, "transport")}, "Bps"),
            Panel("Transfer time", quantiles("segue_kv_transfer_seconds", CLASS, "transport"), "s"),
            Panel(
                "Transfer time p99 by pool",
                p99_by_pool("segue_kv_transfer_seconds"),
                "s",
                "Whose KV cache it was: prefill's in a hand-off, decode's where an answer was moved.",
            ),
            Panel(
                "Transfers at a time",
                {"{{pool}}": rate("segue_kv_transfer_seconds_sum", CLASS, "pool")},
                about="By Little's law; near 1 a decode worker's link is never free.",
            ),
            Panel("Transfers by outcome", {"{{outcome}}": rate("segue_kv_transfers_total", ROUTER, "outcome")}, "ops"),
            Panel(
                "Slowest links",
                {
                    "{{prefill_worker}} to {{decode_worker}}": f"bottomk(10, {of_links('bytes_per_second')})",
                    "all": f"max(segue_kv_transfer_bytes_per_second{{{ROUTER}}})",
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
            Panel(
                "Event loop lag",
                {
                    **quantiles("segue_event_loop_lag_seconds", ROUTER, "instance"),
                    "{{instance}} p99, by its own work": quantiles(
                        "segue_event_loop_own_lag_seconds", ROUTER, "instance"
                    )["{{instance}} p99"],
                },
                "s",
                "By its own work: a router at its limit. The rest: a machine that is busy otherwise.",
            ),
            Panel(
                "Processor",
                {"{{instance}}": f"rate(process_cpu_seconds_total{{{ROUTER}}}[$__rate_interval])"},
                "percentunit",
                "Of one core.",
            ),
            Panel("Memory", {"{{instance}}": f"process_resident_memory_bytes{{{ROUTER}}}"}, "bytes"),
            Panel("Prefix index", {"{{instance}} blocks": f"segue_prefix_index_blocks{{{ROUTER}}}"}),
            Panel(
                "Blocks forgotten for lack of room",
                {"{{instance}}": f"rate(segue_prefix_index_dropped_blocks_total{{{ROUTER}}}[$__rate_interval])"},
            ),
            Panel("Draining", {"{{instance}}": f"segue_router_draining{{{ROUTER}}}"}),
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
