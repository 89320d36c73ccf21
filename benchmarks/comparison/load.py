"""Closed-loop load on an OpenAI completions endpoint, with the time of every streamed chunk."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import aiohttp


@dataclass(frozen=True, slots=True)
class Sample:
    """One request as its client saw it. Times are seconds since the request was sent."""

    prompt: str
    text: str
    chunk_times_s: tuple[float, ...]  # one for each chunk that carried a choice
    prompt_tokens: int
    output_tokens: int
    path: str = ""  # how the stack says it carried the request out; empty where it doesn't say
    error: str | None = None  # what went wrong; a failed request counts in no figure but the number of failures


@dataclass(frozen=True, slots=True)
class Load:
    """What one closed loop gave: the samples in the prompts' order, and how long it ran."""

    samples: tuple[Sample, ...]
    wall_s: float


class StreamReader:
    """Turns the lines of one completions stream into a ``Sample``. Does no I/O and reads no clock."""

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt
        self._text: list[str] = []
        self._times_s: list[float] = []
        self._usage: dict[str, int] = {}
        self._path = ""
        self._done = False

    def line(self, line: bytes, at_s: float) -> None:
        """Take one line of the body, received ``at_s`` seconds after the request was sent.

        Raises ``ValueError`` for a line that is not JSON and for an error sent inside the stream.
        """
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        if data == b"[DONE]":
            self._done = True
            return
        event = json.loads(data)
        if event.get("error"):
            raise ValueError(f"error in the stream: {event['error']}")
        if event.get("usage"):
            self._usage = event["usage"]
        if timings := event.get("segue", {}).get("timings"):
            self._path = f"{timings['path']}, {timings['transport'] or 'nothing transferred'}"
        if event.get("choices"):
            self._text.append(event["choices"][0].get("text") or "")
            self._times_s.append(at_s)

    def sample(self) -> Sample:
        """The finished request; one that broke off before ``[DONE]`` or sent no usage carries an error."""
        error = None
        if not self._done:
            error = "the stream ended without [DONE]"
        elif not self._times_s or "completion_tokens" not in self._usage:
            error = "the stream held no choice or no usage"
        return Sample(
            prompt=self._prompt,
            text="".join(self._text),
            chunk_times_s=tuple(self._times_s),
            prompt_tokens=self._usage.get("prompt_tokens", 0),
            output_tokens=self._usage.get("completion_tokens", 0),
            path=self._path,
            error=error,
        )


def failed(prompt: str, error: str) -> Sample:
    """A request that gave no usable answer."""
    return Sample(prompt=prompt, text="", chunk_times_s=(), prompt_tokens=0, output_tokens=0, error=error)


async def closed_loop(
    send: Callable[[str], Awaitable[Sample]],
    prompts: Sequence[str],
    concurrency: int,
    clock: Callable[[], float] = time.perf_counter,
) -> Load:
    """Send every prompt once, ``concurrency`` at a time: a client sends its next when its last is answered.

    ``wall_s`` runs from the first request sent to the last one answered, the tail with fewer in flight
    included.
    """
    left = iter(range(len(prompts)))
    samples: dict[int, Sample] = {}

    async def client() -> None:
        for index in left:
            samples[index] = await send(prompts[index])

    started_s = clock()
    async with asyncio.TaskGroup() as group:
        for _ in range(min(concurrency, len(prompts))):
            group.create_task(client())
    return Load(tuple(samples[index] for index in range(len(prompts))), clock() - started_s)


@dataclass(frozen=True, slots=True)
class Target:
    """A completions endpoint and what is asked of it."""

    base_url: str  # such as http://127.0.0.1:8000
    model: str
    output_tokens: int
    request_limit_s: float = 60.0


async def stream_completion(session: aiohttp.ClientSession, target: Target, prompt: str) -> Sample:
    """Send one streaming completion, greedy and of exactly ``output_tokens`` tokens, and time its chunks."""
    body = {
        "model": target.model,
        "prompt": prompt,
        "max_tokens": target.output_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    reader = StreamReader(prompt)
    sent_s = time.perf_counter()
    try:
        async with session.post(f"{target.base_url}/v1/completions", json=body) as response:
            if response.status != 200:
                return failed(prompt, f"HTTP {response.status}: {(await response.text())[:500]}")
            async for line in response.content:
                reader.line(line, time.perf_counter() - sent_s)
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        return failed(prompt, f"{type(error).__name__}: {error}")
    return reader.sample()


def apply_load(target: Target, prompts: Sequence[str], concurrency: int) -> Load:
    """Run one closed loop against ``target`` from this thread, on connections of its own."""

    async def run() -> Load:
        timeout = aiohttp.ClientTimeout(total=target.request_limit_s)
        connector = aiohttp.TCPConnector(limit=concurrency)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
            return await closed_loop(lambda prompt: stream_completion(session, target, prompt), prompts, concurrency)

    return asyncio.run(run())
