"""Whatever is sent to the HTTP port: an answer or a refusal in OpenAI's shape, never a fault of ours."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from typing import Any

import aiohttp

from segue.router.openai.fields import IGNORED, INTERNAL, UNSUPPORTED
from segue.router.openai.schema import ChatCompletionRequest, CompletionRequest
from tests.fuzz.conftest import Front
from tests.fuzz.inputs import as_json, draws, mutated, nasty, nasty_object

EXPECTED = {200, 400, 401, 404, 405, 413, 415, 429, 503, 504}
AT_ONCE = 16

COMPLETION = {"prompt": "Once", "max_tokens": 3}
CHAT = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
OTHERS = [*sorted(IGNORED | INTERNAL | set(UNSUPPORTED)), "", "unknown"]
NAMES = {
    "/v1/completions": [*CompletionRequest.model_fields, *OTHERS],
    "/v1/chat/completions": [*ChatCompletionRequest.model_fields, *OTHERS],
}


def body(draw: random.Random) -> tuple[str, bytes]:
    """A path and what is sent there: sane, nasty, or broken."""
    path = draw.choice(list(NAMES))
    sane: dict[str, Any] = dict(COMPLETION if path == "/v1/completions" else CHAT)
    made: Any = nasty_object(draw, sane, NAMES[path])
    if draw.random() < 0.2 and "messages" in made:
        made["messages"] = [{"role": nasty(draw), "content": nasty(draw), draw.choice(OTHERS): nasty(draw)}]
    if draw.random() < 0.05:
        made = nasty(draw)
    data = as_json(made)
    return path, mutated(draw, data) if draw.random() < 0.3 else data


async def test_bodies(front: Front) -> None:
    seen: Counter[int] = Counter()
    sources = iter(draws("http bodies", quick=1500))

    async def send(session: aiohttp.ClientSession) -> None:
        for draw in sources:
            path, data = body(draw)
            async with session.post(path, data=data, headers={"Content-Type": "application/json"}) as response:
                answer = await response.read()
            seen[response.status] += 1
            assert response.status in EXPECTED, (path, data, response.status, answer[:500])
            if response.status != 200:
                error = json.loads(answer)["error"]
                assert set(error) == {"message", "type", "param", "code"}, (path, data, answer)
            elif response.content_type == "text/event-stream":
                assert answer.endswith(b"data: [DONE]\n\n"), (path, data, answer[-300:])

    async with aiohttp.ClientSession(f"http://127.0.0.1:{front.http_port}") as session, asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(send(session))
    print(f"http bodies: {sum(seen.values())} inputs, {dict(seen)}")
    assert {200, 400} <= set(seen)


HEADERS = ("Content-Type", "X-Request-Id", "X-Request-Timeout-S", "Authorization", "Content-Length", "Expect", "Host")


def raw(draw: random.Random) -> bytes:
    """A whole HTTP request, mostly not one."""
    path, data = body(draw)
    method = draw.choice(["POST", "POST", "POST", "GET", "PUT", "DELETE", "OPTIONS", "BREW"])
    target = draw.choice([path, path, "/v1/models", "/v1/models/%00", "/healthz", "/readyz", "*", "//", "/%ff", "?"])
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: a", b"Connection: close"]
    for name in draw.sample(HEADERS, draw.randrange(3)):
        values = ["application/json", "0.5", "nan", "1e400", "-1", "\t", "a" * 9000, "Bearer \x80", "\u00e9"]
        lines.append(f"{name}: {draw.choice(values)}".encode("latin-1"))
    if not any(line.startswith(b"Content-Length") for line in lines):
        lines.append(f"Content-Length: {len(data)}".encode())
    whole = b"\r\n".join([*lines, b"", data])
    return mutated(draw, whole) if draw.random() < 0.7 else whole


_WAIT_S = 0.1


async def _answered(reader: asyncio.StreamReader, wait_s: float) -> bytes:
    """What comes until the server hangs up; nothing if it says nothing for so long."""
    try:
        async with asyncio.timeout(wait_s):
            first = await reader.read(1 << 16)
        async with asyncio.timeout(30):
            return first + await reader.read()
    except (TimeoutError, ConnectionError):
        return b""


async def test_bytes_on_the_wire(front: Front) -> None:
    """The server answers or hangs up; what it answers is no fault of its own. Slow senders are cut off by us."""
    seen: Counter[str] = Counter()
    sources = iter(draws("http bytes", quick=600))

    async def send() -> None:
        for draw in sources:
            reader, writer = await asyncio.open_connection("127.0.0.1", front.http_port)
            data = raw(draw)
            writer.write(data)
            answer = await _answered(reader, _WAIT_S)
            if not answer and not reader.at_eof():  # It waits for more.
                writer.write_eof()
                answer = await _answered(reader, 1)
            writer.close()
            status = answer[9:12].decode("latin-1")
            seen[status] += 1
            assert not status.startswith("5") or status in {"501", "503", "504", "505"}, (data, answer[:500])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(AT_ONCE):
            tasks.create_task(send())
    print(f"http bytes: {sum(seen.values())} inputs, {dict(seen)}")
