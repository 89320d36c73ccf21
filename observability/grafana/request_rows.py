"""What becomes of requests: rows of the dashboard."""

from __future__ import annotations

from observability.grafana.queries import (
    CLASS,
    ROUTER,
    Panel,
    Row,
    p99_by_pool,
    quantiles,
    rate,
    total,
)

_TTFT, _ITL = "segue_time_to_first_token_seconds", "segue_inter_token_latency_seconds"
_SLO = "segue_slo_requests_total"
_MET = f'{CLASS}, slo="met"'

REQUEST_ROWS = (
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
            Panel(
                "Inter-token latency",
                quantiles(_ITL, CLASS)
                | {"{{slo_class}} promised": f"1 / max by (slo_class) (segue_slo_tokens_per_second{{{CLASS}}})"},
                "s",
            ),
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
                    "computed by prefill": total("segue_prefill_computed_tokens_total", ROUTER),
                    "computed by decode": f"clamp_min({total('segue_prompt_tokens_total', ROUTER)}"
                    f" - {total('segue_cached_prompt_tokens_total', ROUTER)}"
                    f" - {total('segue_prefill_computed_tokens_total', ROUTER)}, 0)",
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
)
