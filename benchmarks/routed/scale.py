"""One router core before a large fleet: requests of 100,000 tokens a second, and what the index takes."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import grpc.aio
import numpy as np
import psutil
from comparison.servers import Server, free_ports, stop_all
from routed.prompts import SharedPrompts

from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.router.prefixes.prefix_index import PrefixIndex

_HERE = Path(__file__).parent
_BLOCKS = 40_000  # What 80 GB hold of an 8B model's KV cache beside its weights, in blocks of 16 tokens.
_START_S = 120.0
_IDLE_S = 10.0


def measure_scale(workers: int, requests: int, concurrent: int, tokens: int, simulated: str) -> dict[str, Any]:
    """A real router process, workers and client in two others.

    ``simulated`` is a GPU, as fast as it is times a speed ("H100", "H100*10"); empty: stubs that answer at once.
    """
    http, grpc_port, worker_port = free_ports(3)
    with TemporaryDirectory(prefix="segue-routing-") as logs:
        router = Server(
            "router",
            [
                *(sys.executable, "-m", "segue.cli", "router", "--model", str(ensure_embedded_model())),
                *("--port", str(http), "--grpc-port", str(grpc_port), "--worker-port", str(worker_port)),
                *(
                    "--disaggregation",
                    "always",
                    "--max-queue-s",
                    "1000",
                    "--slo-class",
                    "chat=ttft_s:1000,tokens_per_s:1",
                ),
                *("--worker-lease", "60"),
            ],
            {},
            Path(logs) / "router.log",
        )
        servers = [router]
        try:
            router.wait_ready(f"http://127.0.0.1:{http}/healthz", time.monotonic() + _START_S)
            fleet = Server(
                "workers",
                _fleet_command(f"127.0.0.1:{worker_port}", workers // 2, workers - workers // 2, simulated),
                {},
                Path(logs) / "workers.log",
            )
            servers.append(fleet)
            router.wait_ready(f"http://127.0.0.1:{http}/readyz", time.monotonic() + _START_S)
            return asyncio.run(_drive(router, f"127.0.0.1:{grpc_port}", requests, concurrent, tokens))
        finally:
            stop_all(servers, patience_s=10)


def _fleet_command(router: str, prefill: int, decode: int, simulated: str) -> Sequence[str]:
    if not simulated:
        return (sys.executable, str(_HERE / "stub_fleet.py"), router, str(prefill), str(decode), str(_BLOCKS))
    gpu, _, speed = simulated.partition("*")
    settings = {"gpu": gpu, "speed": speed or "1", "max_model_len": 1 << 17, "num_gpu_blocks_override": _BLOCKS}
    return (
        *(sys.executable, "-m", "segue.cli", "simulated-workers", "--router", router),
        *("--model", str(ensure_embedded_model()), "--prefill", str(prefill), "--decode", str(decode)),
        *(word for name, value in settings.items() for word in ("--engine-arg", f"{name}={value}")),
    )


async def _drive(router: Server, address: str, requests: int, concurrent: int, tokens: int) -> dict[str, Any]:
    own = tokens // 10
    prompts = SharedPrompts(documents=50, shared=tokens - own, own=own)
    process = psutil.Process(router.pid)
    options = [("grpc.max_send_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]
    latencies: list[float] = []
    cached = computed = 0
    left = requests

    async with grpc.aio.insecure_channel(address, options) as channel:
        stub = InferenceStub(channel)

        async def client(count_them: bool) -> None:
            nonlocal left, cached, computed
            while left > 0:
                left -= 1
                begin_s = time.perf_counter()
                answer = await stub.GenerateUnary(prompts.next(), timeout=120)
                if count_them:
                    latencies.append(time.perf_counter() - begin_s)
                    cached += answer.usage.cached_prompt_tokens
                    computed += answer.usage.prompt_tokens

        async def all_clients(count_them: bool) -> None:
            async with asyncio.TaskGroup() as tasks:
                for _ in range(concurrent):
                    tasks.create_task(client(count_them))

        left = requests // 4  # The documents are in the caches then.
        await all_clients(count_them=False)
        idle = process.cpu_times()
        await asyncio.sleep(_IDLE_S)
        left = requests
        before, begin_s = process.cpu_times(), time.perf_counter()
        await all_clients(count_them=True)
        wall_s, after = time.perf_counter() - begin_s, process.cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    # Of a hundred workers' leases alone; on a machine that is busy with other things it falls on few requests.
    idle_cores = (before.user + before.system - idle.user - idle.system) / _IDLE_S
    own_s = (cpu_s - idle_cores * wall_s) / len(latencies)
    return {
        "requests": len(latencies),
        "prompt_tokens": tokens,
        "requests_per_s": len(latencies) / wall_s,
        "router_cpu_ms_per_request": 1000 * cpu_s / len(latencies),
        "idle_router_cores": idle_cores,
        "router_cpu_ms_per_request_beside_idle": 1000 * own_s,
        "requests_per_s_of_router_core": (1 - idle_cores) / own_s,
        "router_cores_used": cpu_s / wall_s,
        "hit_rate": cached / max(1, computed),
        "router_rss_mib": process.memory_info().rss / 2**20,
        "latency_p50_ms": 1000 * float(np.quantile(latencies, 0.5)),
        "latency_p99_ms": 1000 * float(np.quantile(latencies, 0.99)),
    }


def measure_index(blocks: int, sharing: int) -> dict[str, float]:
    """Memory and speed of the index with ``blocks`` names, each in the caches of ``sharing`` workers."""
    generator = np.random.default_rng(1)
    chains = [generator.integers(1, 2**63, 1000, dtype=np.uint64).tolist() for _ in range(blocks // 1000)]
    gc.collect()
    index = PrefixIndex(4 * blocks)
    # The names are made before: the index keeps integers of its own, as it does of those that come in messages.
    tracemalloc.start()
    base = tracemalloc.get_traced_memory()[0]
    for number, chain in enumerate(chains):
        own = [name + 0 for name in chain]
        for worker in range(sharing):
            index.store(f"w-{(number + worker) % 100}", [name + 1 for name in own])
    used = tracemalloc.get_traced_memory()[0] - base
    tracemalloc.stop()
    fresh = PrefixIndex(4 * blocks)
    begin_s = time.thread_time()
    for number, chain in enumerate(chains):
        fresh.store(f"w-{number % 100}", chain)
    stored_s = time.thread_time() - begin_s
    prompt = [name for chain in chains[:6] for name in chain]
    for worker in range(100):
        fresh.store(f"w-{worker}", prompt[: 60 * worker])
    begin_s = time.thread_time()
    for _ in range(20):
        fresh.overlaps(prompt)
    looked_s = (time.thread_time() - begin_s) / 20
    return {
        "blocks": float(len(index)),
        "workers_sharing_each": float(sharing),
        "bytes_per_block": used / len(index),
        "store_us_per_block": 1e6 * stored_s / blocks,
        "look_up_ms_of_6000_blocks": 1000 * looked_s,
    }
