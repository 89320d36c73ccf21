"""What pools, links, routers and engines do: rows of the dashboard."""

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
)

_TTFT, _ITL = "segue_time_to_first_token_seconds", "segue_inter_token_latency_seconds"
_SLO = "segue_slo_requests_total"
_MET = f'{CLASS}, slo="met"'

FLEET_ROWS = (
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
                about="By Little's law; near as many as there are decode workers, their links are never free.",
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
