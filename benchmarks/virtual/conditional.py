"""Conditional disaggregation against always and never on a virtual clock: decisions without a machine's noise."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from routed.conditional import CHAT_TOKENS, OUTPUT_TOKENS, WORKLOADS, workload_prompts
from virtual.clock import run_virtually
from virtual.cluster import Answer, Pools, VirtualCluster, virtual_cluster

from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.inference_pb2 import Path
from segue.router.planning.disaggregation import Disaggregation, Mode
from segue.router.planning.planner import Policy
from segue.router.queueing.admission import Admission
from segue.router.queueing.slo import SloClass, SloClasses

_EVERYBODY = Admission(1e6, SloClasses([SloClass("chat", ttft_s=1e6)]))


def compare_modes(options: Any) -> list[dict[str, Any]]:
    """As :func:`routed.conditional.compare_modes`; each round is a seed, and each turn a cluster of its own."""
    results = []
    for seed in range(options.rounds):
        for workload in WORKLOADS:
            for mode in ("auto", "always", "never"):
                figures = run_turn(mode, workload, seed, options)
                results.append({"mode": mode, "workload": workload, "round": seed, **figures})
                print(json.dumps(results[-1]), flush=True)
    return results


def run_turn(mode: Mode, workload: str, seed: int, options: Any) -> dict[str, Any]:
    async def run() -> tuple[list[Answer], list[Answer]]:
        args = {"gpu": options.simulated_gpu or "H100", "block_size": 128, "jitter": 0.1, "seed": seed}
        args["num_gpu_blocks_override"] = options.kv_blocks
        policy = Policy(disaggregation=Disaggregation(mode))
        pools = Pools(2, 2, args, args, options.devices)
        async with virtual_cluster(ensure_embedded_model(), pools, _EVERYBODY, policy) as cluster:
            await _drive(cluster, workload_prompts("mixed", 32, f"warm {seed}"), 2, options.streams)
            prompts = workload_prompts(workload, options.turn_requests, f"{seed}")
            return await _drive(cluster, prompts, 1, options.streams)

    asked, chats = run_virtually(run)
    paths = [Path.Name(one.timings.path).removeprefix("PATH_").lower() for one in asked if one.timings]
    gaps = [1000 * gap for one in chats for gap in one.gaps_s] or [0.0]
    return {
        "requests": len(asked),
        "ttft_mean_ms": float(np.mean([1000 * one.ttft_s for one in asked])),
        "end_to_end_mean_ms": float(np.mean([1000 * (one.token_times_s[-1] - one.sent_s) for one in asked])),
        "chat_itl_mean_ms": float(np.mean(gaps)),
        "chat_itl_p99_ms": float(np.quantile(gaps, 0.99)),
        "chat_longest_gap_ms": float(np.max(gaps)),
        "paths": dict(Counter(paths)),
    }


async def _drive(
    cluster: VirtualCluster, prompts: Sequence[Sequence[int]], concurrent: int, streams: int
) -> tuple[list[Answer], list[Answer]]:
    """Ask for ``prompts`` while ``streams`` chats run; what both saw."""
    waiting, generator = iter(prompts), random.Random(len(prompts))
    asked: list[Answer] = []
    chats: list[Answer] = []
    done = asyncio.Event()

    async def client() -> None:
        for prompt in waiting:
            asked.append(await cluster.ask(prompt, OUTPUT_TOKENS))
            await asyncio.sleep(0.02)

    async def chat() -> None:
        while not done.is_set():
            chats.append(await cluster.ask([generator.randrange(10, 2000) for _ in range(40)], CHAT_TOKENS))

    async with asyncio.TaskGroup() as tasks:
        for _ in range(streams):
            tasks.create_task(chat())
        await asyncio.sleep(0.5)
        await asyncio.wait([tasks.create_task(client()) for _ in range(concurrent)])
        done.set()
    return asked, chats
