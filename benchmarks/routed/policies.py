"""KV-aware routing against round-robin: a scaled trace on real engines."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio
import numpy as np
from routed.asking import OPTIONS, Asked, ask

_TRACE_BLOCK_TOKENS = 512
_MOST_TOKENS = 3500  # Of the embedded model's 4,096.


def trace_prompts(options: Any, salt: int) -> list[list[int]]:
    """Requests of the trace in its order, ``--scale`` times shorter; equal hash ids are equal tokens, for one salt.

    A conversation comes back minutes later, between thousands of other requests. What is taken are the first
    conversations of several turns, without the rest, so that few requests show what prefixes are worth.
    """
    size = _TRACE_BLOCK_TOKENS // options.scale
    with options.trace.open() as lines:
        entries = [json.loads(line) for line in lines]
    # All share the first block, a system prompt; the second one tells conversations apart.
    conversations: dict[int, list[int]] = {}
    for number, entry in enumerate(entries):
        if len(entry["hash_ids"]) > 1:
            conversations.setdefault(entry["hash_ids"][1], []).append(number)
    long = [numbers for numbers in conversations.values() if len(numbers) >= options.turns]
    chosen = sorted(number for numbers in long[: options.conversations] for number in numbers)
    prompts = []
    for number in chosen[: options.count]:
        tokens: list[int] = []
        for hash_id in entries[number]["hash_ids"]:
            generator = random.Random(f"{salt}-{hash_id}")
            tokens += [generator.randrange(10, 2000) for _ in range(size)]
        length = min(max(1, entries[number]["input_length"] // options.scale), _MOST_TOKENS)
        prompts.append(tokens[:length])
    return prompts


def compare_policies(addresses: Mapping[str, str], options: Any) -> list[dict[str, Any]]:
    results: list[dict[str, Any]] = []
    end_s = time.monotonic() + 60 * options.minutes
    for turn in range(options.rounds):
        if time.monotonic() > end_s:
            break
        names = list(addresses)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            # Another salt for each turn: nothing of it is in any cache, and all begin alike.
            salt = len(results)
            prompts = trace_prompts(options, salt)
            asked = asyncio.run(_replay(addresses[name], prompts, options.concurrent))
            results.append({"policy": name, "round": turn, **_figures(asked)})
            print(json.dumps(results[-1]), flush=True)
    return results


async def _replay(address: str, prompts: Sequence[Sequence[int]], concurrent: int) -> list[Asked]:
    waiting = iter(prompts)
    asked: list[Asked] = []

    async with grpc.aio.insecure_channel(address, OPTIONS) as channel:

        async def client() -> None:
            for prompt in waiting:
                answer = await ask(channel, prompt, 16)
                asked.append(answer)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(concurrent):
                tasks.create_task(client())
    return asked


def _figures(asked: Sequence[Asked]) -> dict[str, float]:
    ttft = [1000 * one.ttft_s for one in asked]
    gaps = [1000 * gap for one in asked for gap in one.gaps_s]
    return {
        "requests": len(asked),
        "prefix_hit_rate": sum(one.cached_tokens for one in asked) / sum(one.prompt_tokens for one in asked),
        "ttft_mean_ms": float(np.mean(ttft)),
        "ttft_p50_ms": float(np.median(ttft)),
        "ttft_p90_ms": float(np.quantile(ttft, 0.9)),
        "itl_mean_ms": float(np.mean(gaps)),
    }
