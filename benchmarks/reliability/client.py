"""Streaming load from a process of its own, at a given rate or with a given number of clients."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVarTuple

import aiohttp
from comparison.prompts import make_prompts

_Args = TypeVarTuple("_Args")


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: streamed completions, greedy, of lengths evenly between ``output_tokens`` less and more
    ``output_spread`` of it: with none all that begin together end together."""

    base_url: str
    model: str
    prompt_words: int
    output_tokens: int
    timeout_s: float
    output_spread: float = 0.0

    def length(self, prompt: str) -> int:
        """In tokens, of the answer to this prompt: always the same."""
        return max(2, round(self.output_tokens * (1 + self.output_spread * random.Random(prompt).uniform(-1, 1))))


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request as its client saw it. Times are seconds since the load began."""

    sent_s: float
    first_s: float | None  # the first token
    end_s: float
    status: int  # 0: none came
    retry_after_s: float | None = None
    path: str = ""
    late_s: float = 0.0  # of an open loop: how long after its time it was sent
    error: str = ""
    tokens: int = 0  # of an answer

    @property
    def answered(self) -> bool:
        return self.status == 200 and not self.error

    @property
    def refused(self) -> bool:
        return self.status == 429


@dataclass(frozen=True, slots=True)
class Rate:
    """An open loop: so many requests a second for so long, whatever becomes of them."""

    per_s: float
    seconds: float


def open_loop(target: Target, rates: Sequence[Rate], seed: str) -> list[Outcome]:
    """Send at each rate in turn, with exponential gaps; the outcomes in the order of sending."""
    draw = random.Random(seed)
    sends, start_s = list[float](), 0.0
    for rate in rates:
        at_s = start_s
        while (at_s := at_s + draw.expovariate(rate.per_s)) < start_s + rate.seconds:
            sends.append(at_s)
        start_s += rate.seconds
    return _in_own_process(_open_loop, target, tuple(sends), seed)


def closed_loop(target: Target, clients: int, seconds: float, seed: str) -> list[Outcome]:
    """So many clients that each send when their last is answered, for so long; a refused one waits as it is told."""
    return _in_own_process(_closed_loop, target, clients, seconds, seed)


def _in_own_process(load: Callable[[*_Args], list[Outcome]], *args: *_Args) -> list[Outcome]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(load, *args).result()


def _open_loop(target: Target, sends: tuple[float, ...], seed: str) -> list[Outcome]:
    prompts = make_prompts(len(sends), target.prompt_words, seed)

    async def run() -> list[Outcome]:
        async with _session(target) as session, asyncio.TaskGroup() as group:
            start_s = time.perf_counter()
            tasks = []
            for at_s, prompt in zip(sends, prompts, strict=True):
                await asyncio.sleep(max(0.0, at_s - (time.perf_counter() - start_s)))
                tasks.append(group.create_task(_send(session, target, prompt, start_s)))
        outcomes = [task.result() for task in tasks]
        return [replace(one, late_s=one.sent_s - at_s) for one, at_s in zip(outcomes, sends, strict=True)]

    return asyncio.run(run())


def _closed_loop(target: Target, clients: int, seconds: float, seed: str) -> list[Outcome]:
    prompts = iter(make_prompts(2000, target.prompt_words, seed))
    outcomes: list[Outcome] = []

    async def run() -> None:
        async with _session(target) as session:
            start_s = time.perf_counter()

            async def client() -> None:
                while time.perf_counter() - start_s < seconds:
                    outcome = await _send(session, target, next(prompts), start_s)
                    outcomes.append(outcome)
                    if outcome.refused:
                        await asyncio.sleep(outcome.retry_after_s or 1.0)

            async with asyncio.TaskGroup() as group:
                for _ in range(clients):
                    group.create_task(client())

    asyncio.run(run())
    return outcomes


def _session(target: Target) -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=target.timeout_s + 5.0)
    return aiohttp.ClientSession(target.base_url, timeout=timeout, connector=aiohttp.TCPConnector(limit=0))


async def _send(session: aiohttp.ClientSession, target: Target, prompt: str, start_s: float) -> Outcome:
    tokens = target.length(prompt)
    body = {
        "model": target.model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    sent_s = time.perf_counter() - start_s
    status, first_s, path, done = 0, None, "", False
    try:
        headers = {"X-Request-Timeout-S": f"{target.timeout_s:g}"}
        async with session.post("/v1/completions", json=body, headers=headers) as response:
            status = response.status
            if status != 200:
                text = await response.text()
                after = response.headers.get("Retry-After")
                end_s = time.perf_counter() - start_s
                return Outcome(sent_s, None, end_s, status, float(after) if after else None, error=text[:300])
            async for line in response.content:
                if first_s is None and line.startswith(b"data:"):
                    first_s = time.perf_counter() - start_s
                if b'"error"' in line:
                    return Outcome(sent_s, first_s, time.perf_counter() - start_s, status, error=line.decode()[:300])
                if b'"timings"' in line:
                    path = json.loads(line[5:])["segue"]["timings"]["path"]
                done = done or line.startswith(b"data: [DONE]")
    except (aiohttp.ClientError, TimeoutError) as error:
        end_s = time.perf_counter() - start_s
        return Outcome(sent_s, first_s, end_s, status, error=f"{type(error).__name__}: {error}")
    end_s = time.perf_counter() - start_s
    fault = "" if done else "the stream ended early"
    return Outcome(sent_s, first_s, end_s, status, path=path, error=fault, tokens=tokens)
