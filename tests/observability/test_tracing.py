"""Spans of router and workers: one trace, the right parents."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from segue.base.errors import SettingsError
from segue.base.trace_parent import TraceParent
from segue.base.tracing import Tracing, TracingSettings, open_tracing, tracing_into
from segue.client import SegueClient
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
from segue.proto.worker_pb2 import EngineUsage, Load, RequestError, RequestOutput, Role, Submit, Transfer
from segue.router.text.tokenizer import TextCodec
from segue.worker.leg_spans import LegSpans
from tests.router.core.scripted import Router, running_router, until
from tests.router.core.test_main import ENDS_S, PROMPT, router_process, workers_of

CLIENT = TraceParent("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7", True)


@dataclass
class Memory:
    """Tracing whose spans stay here."""

    ratio: float = 1.0
    exporter: InMemorySpanExporter = field(default_factory=InMemorySpanExporter)

    def tracing(self, service: str) -> Tracing:
        return tracing_into(SimpleSpanProcessor(self.exporter), self.ratio, service, "here")

    @property
    def spans(self) -> Sequence[ReadableSpan]:
        return self.exporter.get_finished_spans()

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self.spans if span.name == name]


def own_id(span: ReadableSpan) -> str:
    assert span.context is not None
    return format(span.context.span_id, "016x")


def parent_id(span: ReadableSpan) -> str:
    return "" if span.parent is None else format(span.parent.span_id, "016x")


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
async def router(codec: TextCodec, memory: Memory) -> AsyncIterator[Router]:
    async with running_router(codec) as router:
        router.dispatcher.around.tracing = memory.tracing("segue-router")
        yield router


async def ask(router: Router, trace: TraceParent | None = None) -> Any:
    async with SegueClient(router.address) as client:
        if trace is not None:
            client._metadata = (*client._metadata, ("traceparent", str(trace)))
        return await client.generate(PROMPT, max_tokens=5)


async def test_a_request_has_a_span_of_its_own_under_the_clients_and_one_for_each_leg(
    router: Router, memory: Memory
) -> None:
    prefill, decode = await router.attach_pair()
    answer = await ask(router, CLIENT)
    assert answer.timings.trace_id == CLIENT.trace_id
    (request,) = memory.named("segue.request")
    assert parent_id(request) == CLIENT.span_id
    legs = {name: memory.named(name) for name in ("queue", "prefill", "decode")}
    assert {name: [parent_id(span) for span in spans] for name, spans in legs.items()} == {
        name: [own_id(request)] for name in legs
    }
    for worker, leg in ((prefill, "prefill"), (decode, "decode")):
        (submit,) = worker.submits.values()
        assert submit.trace_parent == f"00-{CLIENT.trace_id}-{own_id(legs[leg][0])}-01"
    assert request.attributes is not None
    assert request.attributes["gen_ai.usage.output_tokens"] == 5
    assert request.attributes["segue.outcome"] == "ok"
    decoding = legs["decode"][0]
    assert decoding.attributes is not None
    assert decoding.attributes["segue.kv.bytes"] == 4096
    assert {format(span.context.trace_id, "032x") for span in memory.spans if span.context} == {CLIENT.trace_id}


async def test_what_the_client_does_not_want_traced_is_not(router: Router, memory: Memory) -> None:
    prefill, _ = await router.attach_pair()
    answer = await ask(router, TraceParent(CLIENT.trace_id, CLIENT.span_id, False))
    assert answer.timings.trace_id == ""
    assert not memory.spans
    assert [submit.trace_parent for submit in prefill.submits.values()] == [""]


async def test_a_sessions_request_is_traced_under_its_own_context_or_else_under_the_calls(
    router: Router, memory: Memory
) -> None:
    await router.attach_pair()
    own = TraceParent("a" * 32, "b" * 16, True)
    async with SegueClient(router.address) as client:
        client._metadata = (*client._metadata, ("traceparent", str(CLIENT)))
        async with client.session() as session:
            for trace_parent in (str(own), "", "no context at all"):
                _ = [delta async for delta in session.stream(PROMPT, max_tokens=3, trace_parent=trace_parent)]
    traced = [(format(span.context.trace_id, "032x"), parent_id(span)) for span in memory.named("segue.request")]
    assert traced == [(one.trace_id, one.span_id) for one in (own, CLIENT, CLIENT)]


async def test_a_lost_worker_ends_its_leg_with_an_error_and_the_continuation_has_a_span(
    router: Router, memory: Memory
) -> None:
    _, decode = await router.attach_pair()
    decode.go.clear()
    running = asyncio.create_task(ask(router))
    await until(lambda: decode.submits)
    await router.attach("decode-1", Role.ROLE_DECODE)
    await decode.stop()
    await running
    lost, resumed = memory.named("decode")
    assert not lost.status.is_ok
    assert resumed.status.is_ok is not False or resumed.status.description is None
    (continuation,) = memory.named("continuation")
    (request,) = memory.named("segue.request")
    assert parent_id(continuation) == parent_id(lost) == parent_id(resumed) == own_id(request)


def test_a_workers_leg_is_a_child_of_the_routers_and_has_the_engines_times(memory: Memory) -> None:
    spans = LegSpans(memory.tracing("segue-decode-worker"), "decode", "decode-0")
    spans.on_taken(Submit(request_id="a", trace_parent=str(CLIENT), ticket=Ticket(), sampling=SamplingParams()))
    spans.on_taken(Submit(request_id="untraced"))
    last = RequestOutput(
        request_id="a",
        token_ids=[3],
        finish_reason=FinishReason.FINISH_REASON_STOP,
        usage=EngineUsage(input_tokens=9, computed_tokens=1, queue_s=0.25, compute_s=0.5),
        transfer=Transfer(transport="grpc", bytes=10, seconds=0.125),
    )
    spans.on_step([RequestOutput(request_id="a", token_ids=[1, 2]), RequestOutput(request_id="untraced")], Load())
    spans.on_step([last], Load())
    spans.on_over(last)
    spans.on_over(RequestOutput(request_id="untraced"))
    (leg,) = memory.named("decode worker")
    assert parent_id(leg) == CLIENT.span_id
    assert leg.attributes is not None
    assert leg.attributes["segue.output_tokens"] == 3
    seconds = {}
    for name in ("engine queue", "engine compute", "kv transfer"):
        (span,) = memory.named(name)
        assert parent_id(span) == own_id(leg)
        assert span.start_time is not None
        assert span.end_time is not None
        seconds[name] = (span.end_time - span.start_time) / 1e9
    assert seconds == {"engine queue": 0.25, "engine compute": 0.5, "kv transfer": 0.125}
    assert len(memory.spans) == 4


def test_a_leg_that_fails_says_why(memory: Memory) -> None:
    spans = LegSpans(memory.tracing("segue-prefill-worker"), "prefill", "prefill-0")
    spans.on_taken(Submit(request_id="a", trace_parent=str(CLIENT)))
    error = RequestError(kind=RequestError.KIND_UNAVAILABLE, message="it has drained")
    spans.on_over(RequestOutput(request_id="a", finish_reason=FinishReason.FINISH_REASON_ERROR, error=error))
    (leg,) = memory.spans
    assert leg.status.description == "it has drained"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[tuple[str, Any]] = []

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            named = {attribute.key: attribute.value.string_value for attribute in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans += [(named["service.name"], span) for span in scope.spans]
        return trace_service_pb2.ExportTraceServiceResponse()


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    from concurrent.futures import ThreadPoolExecutor

    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield collector, f"http://127.0.0.1:{port}"
    server.stop(0)


async def test_a_router_process_sends_its_spans_to_a_collector_before_it_leaves() -> None:
    with collecting() as (collector, url):
        async with (
            router_process("--otlp-endpoint", url) as process,
            workers_of(process),
            aiohttp.ClientSession(f"http://127.0.0.1:{process.ports['http']}") as http,
        ):
            body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 3}
            async with http.post("/v1/completions", json=body, headers={"traceparent": str(CLIENT)}) as response:
                assert response.status == 200
            process.child.terminate()
            assert await asyncio.wait_for(process.child.wait(), ENDS_S) == 0
        assert process.faults == [], "".join(process.noise)
    assert {service for service, _ in collector.spans} == {"segue-router"}
    assert {span.name for _, span in collector.spans} == {"segue.request", "queue", "prefill", "decode"}
    assert {span.trace_id.hex() for _, span in collector.spans} == {CLIENT.trace_id}


def test_a_collector_that_is_away_keeps_nobody_from_leaving() -> None:
    tracing = open_tracing(TracingSettings("http://127.0.0.1:9"), "segue-router", "here")
    tracing.begin("segue.request", None, {}).end()
    stopping = threading.Thread(target=tracing.stop)
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive()


@pytest.mark.parametrize("url", ["127.0.0.1:4317", "grpc://collector", "http://"])
def test_an_endpoint_that_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(SettingsError, match="--otlp-endpoint"):
        open_tracing(TracingSettings(url), "segue-router", "here")
