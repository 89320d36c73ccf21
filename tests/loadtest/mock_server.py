"""A small OpenAI server with behaviour to order, and a record of what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class MockServer:
    """``first_s`` before the first token, ``step_s`` between tokens, ``per_chunk`` tokens in each chunk."""

    first_s: float = 0.0
    step_s: float = 0.0
    per_chunk: int = 1
    usage: bool = True
    status: int = 200
    break_after: int | None = None  # Drop the connection after so many chunks.
    end_after: int | None = None  # End the stream in order after so many, without a finish reason.
    capacity: int | None = None  # Serve so many at a time; the others wait.
    bodies: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    url: str = ""

    @asynccontextmanager
    async def up(self) -> AsyncIterator[MockServer]:
        self._slots = asyncio.Semaphore(self.capacity or 1_000_000)
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/completions", self._serve)
        app.router.add_post("/v1/chat/completions", self._serve)
        app.router.add_get("/v1/models", self._models)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.05)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        self.url = "http://{}:{}".format(*runner.addresses[0][:2])
        try:
            yield self
        finally:
            await runner.cleanup()

    async def _models(self, request: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": "mock"}]})

    async def _serve(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.status)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        async with self._slots:
            await self._stream(request, response, body)
        return response

    async def _stream(self, request: web.Request, response: web.StreamResponse, body: dict[str, Any]) -> None:
        chat = "messages" in body
        tokens = body["max_tokens"]
        await asyncio.sleep(self.first_s)
        for number, start in enumerate(range(0, tokens, self.per_chunk)):
            if number == self.break_after:
                assert request.transport is not None
                request.transport.abort()
                return
            if number == self.end_after:
                await response.write(b"data: [DONE]\n\n")
                return
            if number:
                await asyncio.sleep(self.step_s)
            text = "w " * min(self.per_chunk, tokens - start)
            finish = "length" if start + self.per_chunk >= tokens else None
            choice = {"index": 0, "finish_reason": finish, **({"delta": {"content": text}} if chat else {"text": text})}
            await response.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        if self.usage:
            usage = {"prompt_tokens": 7, "completion_tokens": tokens, "prompt_tokens_details": {"cached_tokens": 3}}
            await response.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
