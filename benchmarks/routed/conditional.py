"""Conditional disaggregation against always and never, on short, long and mixed prompts, beside streams that run."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio
import numpy as np
from routed.asking import OPTIONS, Asked, ask

_SHORT, _LONG = (30, 90), (1000, 2000)
WORKLOADS = ("short", "long", "mixed")
# To the first token; to the last one of 32; between two of a chat that runs beside, in the mean and at most.
FIGURES = ("ttft_mean_ms", "end_to_end_mean_ms", "chat_itl_mean_ms", "chat_longest_gap_ms")
OUTPUT_TOKENS, CHAT_TOKENS = 32, 100


def compare_modes(addresses: Mapping[str, str], options: Any) -> list[dict[str, Any]]:
    """In each round every mode takes its turn at every workload, beginning with another mode each time; no further
    round begins when the time is over. What the machine does beside it then meets all modes alike."""
    results: list[dict[str, Any]] = []
    names, end_s = list(addresses), time.monotonic() + 60 * options.minutes
    for name in names:  # Rates are learned before anything counts.
        asyncio.run(_drive(addresses[name], workload_prompts("mixed", 32, seed=name), 2, options.streams))
    for turn in range(options.rounds):
        if time.monotonic() > end_s:
            break
        for workload in WORKLOADS:
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                prompts = workload_prompts(workload, options.turn_requests, seed=f"{name}-{turn}-{workload}")
                asked, streams = asyncio.run(_drive(addresses[name], prompts, 1, options.streams))
                figures = _figures(asked, streams)
                results.append({"mode": name, "workload": workload, "round": turn, **figures})
                print(json.dumps(results[-1]), flush=True)
    return results


def pairs(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """By workload and figure, each auto over always and never, round by round: the mean ratio and its standard error.
    And auto over the better of the two, by the mean of all rounds."""
    autos = sorted({one["mode"] for one in results if one["mode"].startswith("auto")})
    return [row for auto in autos for row in _pairs_of(auto, results)]


def _pairs_of(auto: str, results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    found = []
    for workload in WORKLOADS:
        for figure in FIGURES:
            by_mode = {
                mode: np.array([one[figure] for one in results if (one["mode"], one["workload"]) == (mode, workload)])
                for mode in (auto, "always", "never")
            }
            rounds = min(map(len, by_mode.values()))
            if not rounds:
                continue
            by_mode = {mode: values[:rounds] for mode, values in by_mode.items()}
            row: dict[str, Any] = {"mode": auto, "workload": workload, "figure": figure, "rounds": rounds}
            for other in ("always", "never"):
                ratios = by_mode[auto] / by_mode[other]
                error = float(ratios.std(ddof=1) / np.sqrt(rounds)) if rounds > 1 else float("nan")
                row[f"over_{other}"], row[f"over_{other}_error"] = float(ratios.mean()), error
            better = min(by_mode["always"].mean(), by_mode["never"].mean())
            found.append(row | {"over_better": float(by_mode[auto].mean() / better)})
    return found


def workload_prompts(workload: str, count: int, seed: str) -> list[list[int]]:
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
                asked.append(await ask(channel, prompt, OUTPUT_TOKENS))
                await asyncio.sleep(0.02)

        async def chat() -> None:
            while not done.is_set():
                chats.append(await ask(channel, [generator.randrange(10, 2000) for _ in range(40)], CHAT_TOKENS))

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
        "end_to_end_mean_ms": float(np.mean([1000 * one.total_s for one in asked])),
        "ttft_p50_ms": float(np.median(ttft)),
        "chat_itl_mean_ms": float(np.mean(gaps)),
        "chat_itl_p99_ms": float(np.quantile(gaps, 0.99)),
        "chat_longest_gap_ms": float(np.max(gaps)),
        "paths": dict(Counter(one.path for one in asked)),
        "last_reason": asked[-1].reason,
    }
