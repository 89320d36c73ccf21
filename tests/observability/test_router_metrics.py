"""The router's figures against what is known to have happened."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from segue.base.metrics import Exposition
from segue.client import SegueClient
from segue.proto.inference_pb2 import Cost, Path, Timings, Usage
from segue.proto.worker_pb2 import Role, Transfer
from segue.router.access.keys import KeyLimits, mint
from segue.router.lifecycle.records import RequestRecord
from segue.router.metrics.fleet_gauges import read_fleet
from segue.router.metrics.observer import RouterMetrics
from segue.router.observability.request_log import RequestLog
from segue.router.queueing.slo import DEFAULT_CLASSES
from segue.router.settings import RouterSettings
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import Router, running_router, until
from tests.router.core.test_main import PROMPT, router_process, workers_of

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Scraped:
    """One look at an exposition."""

    def __init__(self, exposition: Exposition) -> None:
        families = list(exposition.collect())
        self._samples: Samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in families
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: str) -> float | None:
        return self._samples.get((name, frozenset(labels.items())))


def record(outcome: str = "ok", *, slo_class: str = "chat", tenant: str = "alice", **timings: float) -> RequestRecord:
    return RequestRecord(
        request_id="r",
        label="",
        model="tiny",
        tenant=tenant,
        slo_class=slo_class,
        outcome=outcome,
        usage=Usage(prompt_tokens=100, cached_prompt_tokens=64, output_tokens=11),
        timings=Timings(path=Path.PATH_SEEDED, prefill_worker="p", decode_worker="d", **timings),  # type: ignore[arg-type]
        end_to_end_s=1.0,
        ended_unix_s=0.0,
        cost=Cost(currency="EUR", input=2.0, cached=0.5, output=1.0, total=3.5),
    )


@pytest.fixture
def exposition() -> Exposition:
    return Exposition()


@pytest.fixture
def metrics(exposition: Exposition) -> RouterMetrics:
    return RouterMetrics(exposition, DEFAULT_CLASSES, max_tenants=2)


@pytest.mark.parametrize("outcome", ["cancelled", "invalid_request"])
def test_what_is_the_clients_own_doing_misses_no_slo(
    exposition: Exposition, metrics: RouterMetrics, outcome: str
) -> None:
    metrics.on_finished(record(outcome, ttft_s=0.2))
    assert Scraped(exposition)("segue_slo_requests_total", slo_class="chat", slo="missed") == 0


def test_goodput_counts_what_met_its_class(exposition: Exposition, metrics: RouterMetrics) -> None:
    metrics.on_finished(record(ttft_s=0.5, itl_mean_s=1 / 30))
    metrics.on_finished(record(ttft_s=0.6, itl_mean_s=0.01))
    metrics.on_finished(record(ttft_s=0.1, itl_mean_s=0.04))
    metrics.on_finished(record("service_unavailable", ttft_s=0.1))
    metrics.on_finished(record("cancelled", ttft_s=9.0))
    metrics.on_finished(record(slo_class="batch", ttft_s=99.0))
    seen = Scraped(exposition)
    assert seen("segue_slo_requests_total", slo_class="chat", slo="met") == 1
    assert seen("segue_slo_requests_total", slo_class="chat", slo="missed") == 3
    assert seen("segue_slo_requests_total", slo_class="batch", slo="missed") is None
    assert seen("segue_requests_total", slo_class="chat", outcome="cancelled") == 1


def test_tenants_beyond_the_bound_count_together(exposition: Exposition, metrics: RouterMetrics) -> None:
    for tenant in ("a", "b", "c", "d", "a"):
        metrics.on_finished(record(tenant=tenant))
    seen = Scraped(exposition)
    assert seen("segue_prompt_tokens_total", tenant="a") == 200
    assert seen("segue_cached_prompt_tokens_total", tenant="b") == 64
    assert seen("segue_output_tokens_total", tenant="other") == 22
    assert seen("segue_tenant_requests_total", tenant="c") is None
    assert seen("segue_cost_total", tenant="other", currency="EUR", part="input") == 4.0


def test_transfers_are_told_apart_by_how_they_ended(exposition: Exposition, metrics: RouterMetrics) -> None:
    metrics.on_transfer("chat", "prefill", Transfer(transport="nixl", bytes=4096, seconds=0.25))
    metrics.on_transfer("chat", "decode", Transfer(transport="nixl", bytes=1024, seconds=0.5))
    metrics.on_transfer("chat", "prefill", Transfer(transport="nixl", bytes=1, seconds=0.1, error="UNAVAILABLE: gone"))
    metrics.on_transfer(
        "chat", "prefill", Transfer(transport="nixl", bytes=1, seconds=0.1, error="differs", corrupt=True)
    )
    seen = Scraped(exposition)
    for outcome, times in (("ok", 2), ("failed", 1), ("corrupt", 1)):
        assert seen("segue_kv_transfers_total", transport="nixl", outcome=outcome) == times
    assert seen("segue_kv_transfer_bytes_total", transport="nixl") == 5120
    for pool, seconds in (("prefill", 0.25), ("decode", 0.5)):
        assert seen("segue_kv_transfer_seconds_sum", slo_class="chat", pool=pool, transport="nixl") == seconds


@pytest.fixture
async def router(codec: TextCodec) -> AsyncIterator[Router]:
    async with running_router(codec) as router:
        yield router


async def test_requests_through_a_router_are_counted_once_each(
    router: Router, exposition: Exposition, metrics: RouterMetrics
) -> None:
    router.dispatcher.around.observer = metrics
    await router.attach_pair()
    async with SegueClient(router.address) as client:
        for _ in range(3):
            await client.generate(PROMPT, max_tokens=5)
    await until(lambda: router.dispatcher.running_requests == 0)
    seen = Scraped(exposition)
    assert seen("segue_requests_total", slo_class="chat", outcome="ok") == 3
    assert seen("segue_time_to_first_token_seconds_count", slo_class="chat", pool="prefill") == 3
    assert seen("segue_inter_token_latency_seconds_count", slo_class="chat", pool="prefill") == 3 * 4
    for leg in ("queue", "prefill", "decode", "end_to_end"):
        assert seen(f"segue_{leg}_seconds_count", slo_class="chat", pool="prefill") == 3, leg
    assert seen("segue_kv_transfer_seconds_count", slo_class="chat", pool="prefill", transport="grpc") == 3
    assert seen("segue_handoff_seconds_count", slo_class="chat") == 3
    assert seen("segue_kv_transfers_total", transport="grpc", outcome="ok") == 3
    assert seen("segue_kv_transfer_bytes_total", transport="grpc") == 3 * 4096
    assert seen("segue_requests_by_path_total", path="seeded") == 3


async def test_requests_whose_prompt_decode_computes_are_told_apart(
    router: Router, exposition: Exposition, metrics: RouterMetrics
) -> None:
    router.dispatcher.around.observer = metrics
    await router.attach("decode-0", Role.ROLE_DECODE)
    async with SegueClient(router.address) as client:
        await client.generate(PROMPT, max_tokens=5)
    await until(lambda: router.dispatcher.running_requests == 0)
    seen = Scraped(exposition)
    for leg in ("queue", "prefill", "time_to_first_token", "decode", "end_to_end"):
        assert seen(f"segue_{leg}_seconds_count", slo_class="chat", pool="decode") == 1, leg
    assert seen("segue_inter_token_latency_seconds_count", slo_class="chat", pool="decode") == 4
    assert seen("segue_handoff_seconds_count", slo_class="chat") is None


async def test_a_worker_that_is_lost_is_a_continuation_and_leaves_no_gauge(
    router: Router, exposition: Exposition, metrics: RouterMetrics
) -> None:
    router.dispatcher.around.observer = metrics
    exposition.read(lambda: read_fleet(router.links.snapshot(), {}))
    _, decode = await router.attach_pair()
    decode.go.clear()
    assert Scraped(exposition)("segue_worker_assigned_requests", worker="decode-0", pool="decode") == 0
    async with SegueClient(router.address) as client:
        running = asyncio.create_task(client.generate(PROMPT, max_tokens=5))
        await until(lambda: decode.submits)
        assert Scraped(exposition)("segue_worker_assigned_requests", worker="decode-0", pool="decode") == 1
        await router.attach("decode-1", Role.ROLE_DECODE)
        await decode.stop()
        await running
    seen = Scraped(exposition)
    assert seen("segue_continuations_total", slo_class="chat", reason="unavailable") == 1
    assert seen("segue_worker_assigned_requests", worker="decode-0", pool="decode") is None
    assert seen("segue_worker_assigned_requests", worker="decode-1", pool="decode") == 0
    assert seen("segue_workers", pool="decode", state="ready") == 1
    assert seen("segue_workers", pool="prefill", state="draining") == 0


async def test_with_api_keys_metrics_take_a_key_for_operations(tmp_path: object) -> None:
    client_key, client = mint("alice", KeyLimits())
    operator_key, operator = mint("prometheus", KeyLimits(), operations=True)
    keys = f"{client.line()};{operator.line()}"
    async with (
        router_process(environment={"SEGUE_API_KEYS": keys}) as process,
        workers_of(process),
        aiohttp.ClientSession(f"http://127.0.0.1:{process.ports['http']}") as http,
    ):
        for key, path, status in (
            ("", "/metrics", 401),
            (client_key, "/metrics", 403),
            (operator_key, "/metrics", 200),
            (operator_key, "/v1/models", 403),
            (client_key, "/v1/models", 200),
        ):
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            async with http.get(path, headers=headers) as response:
                assert response.status == status, (path, key)
                body = await response.text()
            if path == "/metrics" and status == 200:
                names = {family.name for family in text_string_to_metric_families(body)}
                assert {"segue_workers", "segue_router_info", "process_resident_memory_bytes"} <= names
        async with SegueClient(f"127.0.0.1:{process.ports['grpc']}", api_key=operator_key) as asking:
            with pytest.raises(Exception, match="for operations"):
                await asking.generate(PROMPT, max_tokens=1)


async def test_metrics_on_a_port_of_their_own_are_nowhere_else() -> None:
    async with (
        router_process("--metrics-port", "0") as process,
        aiohttp.ClientSession() as http,
    ):
        (told,) = [entry for entry in process.log if entry["event"] == "metrics"]
        async with http.get(f"http://127.0.0.1:{told['port']}/metrics") as response:
            assert response.status == 200
        async with http.get(f"http://127.0.0.1:{process.ports['http']}/metrics") as response:
            assert response.status == 404


async def test_a_request_has_a_log_line_if_asked_for_or_if_we_failed_it() -> None:
    async with router_process("--log-requests") as process, workers_of(process):
        async with SegueClient(f"127.0.0.1:{process.ports['grpc']}") as client:
            await client.generate(PROMPT, max_tokens=2)
        await until(lambda: process.says("request"))
        (line,) = [entry for entry in process.log if entry["event"] == "request"]
        assert line["level"] == "info"
        assert (line["outcome"], line["output_tokens"], line["decode_worker"]) == ("ok", 2, "decode-0")
        assert line["request_id"]
    with capture_logs() as logs:
        quiet = RequestLog(every=False)
        for outcome in ("ok", "cancelled", "service_unavailable"):
            quiet.on_finished(record(outcome))
    assert [(entry["outcome"], entry["log_level"]) for entry in logs] == [("service_unavailable", "warning")]


@pytest.mark.parametrize(("port", "third"), [(None, None), (0, 0), (9400, 9402)])
def test_each_process_of_a_router_has_a_metrics_port_of_its_own(port: int | None, third: int | None) -> None:
    settings = RouterSettings(model="tiny", metrics_port=port, processes=4, process=2)
    assert settings.for_process().metrics_port == third
