"""Names of metrics: what is documented is what is exported."""

from __future__ import annotations

import re

from tests.observability.tables import CATALOGUES, PAGE, with_tables


def test_the_documentation_lists_every_metric() -> None:
    page = PAGE.read_text()
    assert page == with_tables(page), "run python -m tests.observability.tables"


def test_names_follow_prometheus_habits() -> None:
    for metrics in CATALOGUES.values():
        names = [metric.name for metric in metrics]
        assert len(set(names)) == len(names)
        for metric in metrics:
            assert re.fullmatch(r"(segue_|vllm:)[a-z_]+", metric.name), metric.name
            assert metric.kind != "histogram" or metric.name.endswith("_seconds"), metric.name
            assert list(metric.buckets) == sorted(set(metric.buckets)), metric.name
            assert metric.help.endswith("."), metric.name
