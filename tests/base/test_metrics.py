"""Counting, and what Prometheus reads of it."""

from __future__ import annotations

import random
from collections.abc import Mapping

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from segue.base.errors import SettingsError
from segue.base.metrics import Exposition, Metric, Reading, quantile
from segue.base.metrics_http import MetricsServer

WAITS = Metric("waits_seconds", "histogram", "How long.", ("kind",), (0.1, 1.0, 10.0))
THINGS = Metric("things_total", "counter", "How many.", ("kind",))
ROOM = Metric("room", "gauge", "How much.", ("worker",))


def test_an_observation_on_a_bound_counts_as_within_it() -> None:
    histogram = Exposition().histogram(WAITS)
    for value in (0.0, 0.1, 0.10001, 1.0, 10.0, 11.0):
        histogram.observe(value, "a")
    assert histogram.at("a").counts.tolist() == [2, 2, 1, 1]
    assert histogram.at("a").sum == pytest.approx(22.20001)


def test_many_at_once_count_as_each_alone_would() -> None:
    random.seed(5)
    values = [random.expovariate(1) for _ in range(10_000)]
    one, all_ = Exposition().histogram(WAITS).at("a"), Exposition().histogram(WAITS).at("a")
    for value in values:
        one.observe(value)
    for begin in range(0, len(values), 77):
        all_.observe_all(values[begin : begin + 77])
    assert one.counts.tolist() == all_.counts.tolist()
    assert sum(one.counts) == len(values)


def test_quantiles_lie_within_the_bucket_that_holds_them() -> None:
    bounds = (1.0, 2.0, 4.0)
    assert quantile(bounds, (0, 0, 0, 0), 0.5) == 0.0
    assert quantile(bounds, (10, 0, 0, 0), 0.5) == pytest.approx(0.5)
    assert quantile(bounds, (5, 5, 0, 0), 0.5) == pytest.approx(1.0)
    assert quantile(bounds, (0, 0, 10, 0), 0.9) == pytest.approx(3.8)
    assert quantile(bounds, (1, 0, 0, 9), 0.99) == 4.0


def test_names_tell_kinds() -> None:
    with pytest.raises(ValueError, match="_total"):
        Metric("things", "counter", "How many.")
    with pytest.raises(ValueError, match="buckets"):
        Metric("waits_seconds", "histogram", "How long.")


async def test_what_a_scrape_reads_is_what_was_counted_and_what_is_there_now() -> None:
    exposition = Exposition()
    exposition.counter(THINGS).add(3, "a")
    exposition.histogram(WAITS).observe(0.5, "a")
    rooms: dict[tuple[str, ...], float] = {("w0",): 7.0}

    def read() -> Mapping[Metric, Reading]:
        return {ROOM: rooms}

    exposition.read(read)
    server = MetricsServer(exposition)
    port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            samples = await scrape(http)
            assert samples["things_total", ("a",)] == 3
            assert samples["waits_seconds_bucket", ("a", "1.0")] == 1
            assert samples["waits_seconds_count", ("a",)] == 1
            assert samples["room", ("w0",)] == 7
            assert samples["process_resident_memory_bytes", ()] > 1 << 20
            rooms.clear()
            assert ("room", ("w0",)) not in await scrape(http)
            headers = {"Accept": "application/openmetrics-text; version=1.0.0"}
            async with http.get("/metrics", headers=headers) as response:
                assert (await response.text()).endswith("# EOF\n")
    finally:
        await server.stop()


async def test_a_metrics_port_that_is_taken_is_named_with_the_option_to_change() -> None:
    first, second = MetricsServer(Exposition()), MetricsServer(Exposition())
    port = await first.start("127.0.0.1", 0)
    try:
        with pytest.raises(SettingsError, match=rf"127\.0\.0\.1:{port}.*--metrics-port"):
            await second.start("127.0.0.1", port)
    finally:
        await first.stop()


async def scrape(http: aiohttp.ClientSession) -> dict[tuple[str, tuple[str, ...]], float]:
    async with http.get("/metrics") as response:
        assert response.status == 200
        families = text_string_to_metric_families(await response.text())
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }


async def test_a_watched_port_says_whether_the_process_is_ready() -> None:
    state = {"ready": False}
    server = MetricsServer(Exposition(), ready=lambda: state["ready"])
    port = await server.start("127.0.0.1", 0)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            seen = []
            for ready in (False, True):
                state["ready"] = ready
                async with session.get("/readyz") as response:
                    seen.append((response.status, await response.json()))
            assert seen == [(503, {"ready": False}), (200, {"ready": True})]
    finally:
        await server.stop()
