"""Names of metrics: what is documented is what is exported."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

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


def test_what_goes_by_vllms_names_is_named_and_labelled_as_in_the_installed_vllm() -> None:
    vllm = find_spec("vllm")  # Found, not imported: that would take seconds.
    if vllm is None or not vllm.submodule_search_locations:
        pytest.skip("vLLM isn't installed")
    source = (Path(vllm.submodule_search_locations[0]) / "v1/metrics/loggers.py").read_text()
    borrowed = [metric for metrics in CATALOGUES.values() for metric in metrics if metric.name.startswith("vllm:")]
    assert borrowed
    for metric in borrowed:
        # Prometheus' client adds the ending of counters.
        assert f'name="{metric.name.removesuffix("_total")}"' in source
        assert metric.name.endswith("_total") == (metric.kind == "counter")
        assert metric.labels == ("model_name", "engine")
    assert 'labelnames = ["model_name", "engine"]' in source
