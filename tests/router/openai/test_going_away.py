"""Clients that go away or read too slowly, and deadlines from headers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import pytest
from aiohttp import ClientSession

from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse
from segue.router.service import Generation
from tests.router.openai.asked import COMPLETION, FakeService, Step, post


def endless(_: Generation) -> Iterator[Step]:
    while True:
        yield GenerateResponse(choices=[ChoiceDelta(text="word ", token_ids=[1])])
        yield 0.005


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_cancels_its_request(
    http: ClientSession, service: FakeService, stream: bool
) -> None:
    service.script = endless
    body = COMPLETION | {"stream": stream, "prompt": ["a", "b"]}
    request = asyncio.create_task(http.post("/v1/completions", json=body))
    while len(service.handles) < 2:
        await asyncio.sleep(0.01)
    if stream:
        response = await request
        await response.content.read(100)
        response.close()
    else:
        request.cancel()
    async with asyncio.timeout(30):
        for handle in service.handles:
            await handle.cancelled.wait()


async def test_a_reader_that_is_too_slow_is_dropped(url: str, service: FakeService) -> None:
    flood = GenerateResponse(choices=[ChoiceDelta(text="x" * 50_000)])

    def script(_: Generation) -> Iterator[Step]:
        while True:
            yield flood
            yield 0.0

    service.script = script
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    body = json.dumps(COMPLETION | {"stream": True}).encode()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    while not service.handles:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(30):
        await service.handles[0].cancelled.wait()
    writer.close()
    assert reader.at_eof() is False


async def test_a_stream_over_http_1_0_has_no_chunk_framing(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(COMPLETION | {"stream": True}).encode()
    writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    head, content = (await reader.read()).split(b"\r\n\r\n", 1)
    assert b"chunked" not in head.lower()
    assert content.startswith(b"data: {")
    assert content.endswith(b"data: [DONE]\n\n")
    writer.close()


async def test_the_deadline_comes_from_the_header(http: ClientSession, service: FakeService) -> None:
    await post(http, COMPLETION)
    # What is left of them, which on a busy machine is less than on another.
    assert 7.5 < service.generations[0].timeout_s <= 50
    await post(http, COMPLETION, **{"X-Request-Timeout-S": "7.5"})
    assert 0 < service.generations[1].timeout_s <= 7.5
    for bad in ("soon", "nan", "inf", "0", "-1", "101", "", "1_0", "1e1", "0x5", "5s", "5, 6", "\u0665", "9" * 40):
        status, body = await post(http, COMPLETION, **{"X-Request-Timeout-S": bad})
        assert (status, body["error"]["param"]) == (400, "X-Request-Timeout-S")


async def test_a_deadline_that_is_given_twice_is_refused(http: ClientSession, service: FakeService) -> None:
    headers = [("X-Request-Timeout-S", "5"), ("X-Request-Timeout-S", "6")]
    async with http.post("/v1/completions", json=COMPLETION, headers=headers) as response:
        assert response.status == 400
        assert "'5, 6'; it must be one number of seconds" in (await response.json())["error"]["message"]
    assert service.generations == []
