"""Conditional disaggregation against always and never, on short, long and mixed prompts, beside streams that run."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio
import numpy as np
from routed.asking import OPTIONS, Asked, ask

_SHORT, _LONG = (30, 90), (1500, 3000)
WORKLOADS = ("short", "long", "mixed")


def compare_modes(addresses: Mapping[str, str], options: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    names = list(addresses)
    for name in names:  # Rates are learned before anything counts.
        asyncio.run(_drive(addresses[name], _prompts("mixed", 24, seed=name), 2, options.streams))
    for turn in range(options.rounds):
        for workload in WORKLOADS:
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                prompts = _prompts(workload, options.requests, seed=f"{name}-{turn}-{workload}")
                asked, streams = asyncio.run(_drive(addresses[name], prompts, 1, options.streams))
                figures = _figures(asked, streams)
                results.append({"mode": name, "workload": workload, "round": turn, **figures})
                print(json.dumps(results[-1]), flush=True)
    return results


def _prompts(workload: str, count: int, seed: str) -> list[list[int]]:
    """The same lengths for each mode and never the same tokens: caches don't help anybody."""
    lengths, tokens = random.Random(f"{workload}-{count}"), random.Random(seed)
    prompts = []
    for number in range(count):
        long = workload == "long" or (workload == "mixed" and number % 4 == 3)
        prompts.append([tokens.randrange(10, 2000) for _ in range(lengths.randint(*(_LONG if long else _SHORT)))])
    return prompts


async def _drive(
    address: str, prompts: Sequence[Sequence[int]], concurrent: int, streams: int
) -> tuple[list[Asked], list[Asked]]:
    """Ask for ``prompts`` while ``streams`` chats run; what both saw."""
    waiting = iter(prompts)
    asked: list[Asked] = []
    chats: list[Asked] = []
    done = asyncio.Event()
    generator = random.Random(address)

    async with grpc.aio.insecure_channel(address, OPTIONS) as channel:

        async def client() -> None:
            for prompt in waiting:
                asked.append(await ask(channel, prompt, 12))
                await asyncio.sleep(0.02)

        async def chat() -> None:
            while not done.is_set():
                chats.append(await ask(channel, [generator.randrange(10, 2000) for _ in range(40)], 100))

        async with asyncio.TaskGroup() as tasks:
            for _ in range(streams):
                tasks.create_task(chat())
            await asyncio.sleep(0.5)
            clients = [tasks.create_task(client()) for _ in range(concurrent)]
            await asyncio.wait(clients)
            done.set()
    return asked, chats


def _figures(asked: Sequence[Asked], chats: Sequence[Asked]) -> dict[str, Any]:
    ttft = [1000 * one.ttft_s for one in asked]
    gaps = [1000 * gap for one in chats for gap in one.gaps_s] or [0.0]
    return {
        "requests": len(asked),
        "ttft_mean_ms": float(np.mean(ttft)),
        "ttft_p50_ms": float(np.median(ttft)),
        "chat_itl_mean_ms": float(np.mean(gaps)),
        "chat_itl_p99_ms": float(np.quantile(gaps, 0.99)),
        "paths": dict(Counter(one.path for one in asked)),
    }
