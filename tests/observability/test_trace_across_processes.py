"""One request's spans from router, prefill and decode worker, each a process of its own, at one collector."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import aiohttp

from tests.e2e.running import running_cluster
from tests.observability.test_tracing import CLIENT, collecting

ENDS_S = 60


async def test_a_clients_trace_goes_through_router_and_both_workers(tmp_path: Path) -> None:
    with (
        collecting() as (collector, url),
        running_cluster(tmp_path, "--engine", "simulated", "--port", "0", "--otlp-endpoint", url) as cluster,
    ):
        body = {"model": cluster.model, "prompt": list(range(10, 60)), "max_tokens": 4}
        headers = {"traceparent": str(CLIENT)}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{cluster.http_url}/v1/completions", json=body, headers=headers) as response,
        ):
            assert response.status == 200, await response.text()
        cluster.process.send_signal(signal.SIGTERM)  # Each process sends what it has before it leaves.
        cluster.process.wait(ENDS_S)
    spans = {span.span_id: (service, span) for service, span in collector.spans}
    assert {span.trace_id.hex() for _, span in spans.values()} == {CLIENT.trace_id}

    def up(span: Any) -> list[tuple[str, str]]:
        """Service and name of a span and of those above it, up to what the client has sent."""
        line = []
        while span is not None:
            service, _ = spans[span.span_id]
            line.append((service, span.name))
            if span.parent_span_id.hex() == CLIENT.span_id:
                return line
            _, span = spans[span.parent_span_id]
        return line

    legs = {service: up(span) for service, span in spans.values() if span.name.endswith(" worker")}
    request = ("segue-router", "segue.request")
    assert legs == {
        "segue-prefill-worker": [("segue-prefill-worker", "prefill worker"), ("segue-router", "prefill"), request],
        "segue-decode-worker": [("segue-decode-worker", "decode worker"), ("segue-router", "decode"), request],
    }
    transfers = [up(span) for _, span in spans.values() if span.name == "kv transfer"]
    assert transfers == [[("segue-decode-worker", "kv transfer"), *legs["segue-decode-worker"]]]
