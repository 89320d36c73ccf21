"""The dashboard's and the alerts' queries, held against what is exported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from observability.grafana import dashboard
from observability.prometheus import kubernetes
from segue.base.metrics import Metric
from segue.router.metrics import catalogue as router
from segue.worker.metrics import catalogue as worker
from tests.observability.promql import Selector, read

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "observability.md"
ALERTS = yaml.safe_load((ROOT / "observability" / "prometheus" / "alerts.yaml").read_text())
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]

# Prometheus's own labels, and prometheus-client's figures of a process.
SCRAPED = frozenset({"instance", "job"})
PROCESS = ("process_cpu_seconds_total", "process_resident_memory_bytes")
# Exported for others: identity, what vLLM's tools look for, and what the router's view of workers has too.
NOT_DRAWN = {
    metric.name
    for metric in (*router.METRICS, *worker.METRICS)
    if metric.name.startswith(("vllm:", "segue_engine_")) or metric.name.endswith("_info")
}


def samples(metric: Metric) -> dict[str, frozenset[str]]:
    labels = frozenset(metric.labels) | SCRAPED
    if metric.kind == "histogram":
        return {f"{metric.name}_bucket": labels | {"le"}, f"{metric.name}_sum": labels, f"{metric.name}_count": labels}
    return {metric.name: labels}


EXPORTED: dict[str, frozenset[str]] = {
    **dict.fromkeys(PROCESS, SCRAPED),
    **{name: labels for metric in (*router.METRICS, *worker.METRICS) for name, labels in samples(metric).items()},
}


def dashboard_queries() -> list[str]:
    return [target["expr"] for panel in dashboard.dashboard()["panels"] for target in panel.get("targets", ())]


QUERIES = [*dashboard_queries(), *(rule["expr"] for rule in RULES)]


@pytest.mark.parametrize(
    ("query", "selectors", "grouped"),
    [
        ("up", {("up", "")}, ""),
        ('sum by (le, a) (rate(x_bucket{b=~"c|d", e!="f"}[5m])) > 0.1', {("x_bucket", "b e")}, "a le"),
        ("a{} / on () b - max(c) by (d)", {("a", ""), ("b", ""), ("c", "")}, "d"),
        (
            "min_over_time((max by (w) (x))[10m:30s]) > 0 unless on () (sum(rate(y[1m])) > 0)",
            {("x", ""), ("y", "")},
            "w",
        ),
        ("absent(x)", {("x", "")}, ""),
    ],
)
def test_queries_are_read_as_prometheus_reads_them(query: str, selectors: set[tuple[str, str]], grouped: str) -> None:
    found = read(query)
    assert set(found.selectors) == {Selector(name, frozenset(labels.split())) for name, labels in selectors}
    assert found.grouped_by == frozenset(grouped.split())


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_only_what_is_exported(query: str) -> None:
    found = read(query)
    assert found.selectors
    known: frozenset[str] = frozenset()
    for selector in found.selectors:
        assert selector.name in EXPORTED, f"{selector.name} is exported by nobody"
        assert selector.labels <= EXPORTED[selector.name], selector
        known |= EXPORTED[selector.name]
    assert found.grouped_by <= known


def test_whatever_is_exported_is_drawn() -> None:
    named = {selector.name for query in QUERIES for selector in read(query).selectors}
    missing = [
        metric.name for metric in router.METRICS if metric.name not in NOT_DRAWN and not named & samples(metric).keys()
    ]
    assert missing == []


def test_the_dashboard_is_what_its_panels_say() -> None:
    assert dashboard.FILE.read_text() == dashboard.text(), "run python -m observability.grafana.dashboard"
    model = json.loads(dashboard.FILE.read_text())
    ids = [panel["id"] for panel in model["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in model["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        for other in model["panels"]:
            assert other is panel or not _overlap(place, other["gridPos"]), (panel["title"], other["title"])


def test_every_alert_says_what_it_is_and_the_documentation_what_to_do() -> None:
    documented = re.findall(r"^\| `(Segue\w+)` \|", PAGE.read_text(), flags=re.M)
    assert documented == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label in read(rule["expr"]).grouped_by, (rule["alert"], label)


def test_kubernetes_gets_the_same_rules() -> None:
    assert kubernetes.FILE.read_text() == kubernetes.text(), "run python -m observability.prometheus.kubernetes"
    made = yaml.safe_load(kubernetes.text())
    assert made["kind"] == "PrometheusRule"
    assert made["spec"] == ALERTS
    component = yaml.safe_load((kubernetes.FILE.parent / "kustomization.yaml").read_text())
    assert kubernetes.FILE.name in component["resources"]


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
    above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
    return not (apart or above)
