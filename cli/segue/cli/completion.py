"""One streamed completion over the router's OpenAI HTTP, for the demo."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp

_TIMEOUT_S = 300.0


@dataclass(frozen=True)
class Completion:
    """What to ask for, greedily."""

    http_url: str
    model: str
    prompt: str
    max_tokens: int
    api_key: str = field(default="", repr=False)


class CompletionError(Exception):
    """The router refused, or the stream ended without an answer."""


@dataclass(frozen=True)
class Ending:
    """The last of a stream: token usage and the router's timings, each as far as they were sent."""

    usage: dict[str, Any]
    timings: dict[str, Any]
    total_s: float

    def __str__(self) -> str:
        return timings_line(self)


async def stream_completion(request: Completion, on_text: Callable[[str], None]) -> Ending:
    """Send the prompt, hand each piece of text to ``on_text`` as it comes, return what the stream ended with.

    Raises CompletionError for a refusal, an error inside the stream, or a stream without any text event.
    """
    body = {
        "model": request.model,
        "prompt": request.prompt,
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"Authorization": f"Bearer {request.api_key}"} if request.api_key else {}
    loop = asyncio.get_running_loop()
    started_s = loop.time()
    usage: dict[str, Any] = {}
    timings: dict[str, Any] = {}
    finished = False
    try:
        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_S)
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.post(f"{request.http_url}/v1/completions", json=body, headers=headers) as response,
        ):
            if response.status != 200:
                raise CompletionError(f"the router answered {response.status}: {await response.text()}")
            async for event in _events(response):
                if "error" in event:
                    raise CompletionError(f"the stream broke off: {event['error']}")
                usage = event.get("usage") or usage
                timings = (event.get("segue") or {}).get("timings") or timings
                for choice in event.get("choices", ()):
                    on_text(choice.get("text") or "")
                    finished = finished or choice.get("finish_reason") is not None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise CompletionError(f"no answer from the router: {error!r}") from error
    if not finished:
        raise CompletionError("the stream ended without a finish reason")
    return Ending(usage, timings, loop.time() - started_s)


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[dict[str, Any]]:
    """The JSON objects of a server-sent event stream, up to ``[DONE]``."""
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == b"[DONE]":
            return
        yield json.loads(data)


def timings_line(ending: Ending) -> str:
    """One line that says where the time went, leaving out what wasn't sent."""
    timings, usage = ending.timings, ending.usage
    parts = []
    if "completion_tokens" in usage:
        parts.append(f"{usage.get('prompt_tokens', '?')} + {usage['completion_tokens']} tokens")
    for key, words in (("ttft_s", "TTFT"), ("prefill_s", "prefill")):
        if timings.get(key) is not None:
            parts.append(f"{words} {timings[key] * 1000:.0f} ms")
    if timings.get("transfer_s") is not None:
        transfer = f"KV transfer {timings['transfer_s'] * 1000:.1f} ms"
        if timings.get("transfer_bytes") is not None:
            transfer += f", {timings['transfer_bytes']:,} bytes"
        if timings.get("transport"):
            transfer += f" by {timings['transport']}"
        parts.append(transfer)
    if timings.get("itl_mean_s") is not None:
        parts.append(f"ITL {timings['itl_mean_s'] * 1000:.1f} ms")
    if timings.get("path"):
        parts.append(f"path {timings['path']}")
    parts.append(f"total {ending.total_s * 1000:.0f} ms")
    return " | ".join(parts)
