"""What the dashboard's rows are made of: panels, and the shapes of their PromQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

ROUTER = 'instance=~"$router"'
CLASS = f'{ROUTER}, slo_class=~"$slo_class"'


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


def p99_by_pool(metric: str) -> dict[str, str]:
    """Of a histogram of requests: those that were handed off, and those whose prompt decode computed itself."""
    rates = f"sum by (le, slo_class, pool) (rate({metric}_bucket{{{CLASS}}}[$__rate_interval]))"
    return {"{{slo_class}} {{pool}}": f"histogram_quantile(0.99, {rates})"}


def rate(metric: str, labels: str, by: str) -> str:
    return f"sum by ({by}) (rate({metric}{{{labels}}}[$__rate_interval]))"


def total(metric: str, labels: str) -> str:
    return f"sum(rate({metric}{{{labels}}}[$__rate_interval]))"


def of_workers(metric: str, by: str = "worker, pool") -> str:
    """Every router sees the whole fleet: one of them is enough."""
    return f"max by ({by}) ({metric}{{{ROUTER}}})"


def of_links(figure: str) -> str:
    """Of each pair of workers. Routers measure apart; the largest figure is shown."""
    return f"max by (prefill_worker, decode_worker) (segue_kv_link_{figure}{{{ROUTER}}})"
