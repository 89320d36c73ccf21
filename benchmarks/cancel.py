"""How soon both engines have nothing left of a request that its client has cancelled.

python benchmarks/cancel.py --count 100 --json cancel.json

Real engines, one prefill and one decode worker. A request of 40 to 1,500 tokens of prompt is cancelled 5 to 400 ms
after it was sent; from then on both workers are asked every few milliseconds what their engines hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
from comparison.machine import describe_machine
from reliability.cluster import Cluster, segue_up

from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.inference_pb2 import GenerateRequest, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import DescribeRequest
from segue.proto.worker_pb2_grpc import WorkerStub

_PAUSE_S = 0.002
_GIVE_UP_S = 10.0


async def measure(cluster: Cluster, count: int, seed: int) -> list[tuple[int, float]]:
    """For each request the tokens that it had got, and the seconds from its cancelling until nothing was left."""
    draw = random.Random(seed)
    addresses = [_address(cluster, worker_id) for worker_id in cluster.workers]
    seen: list[tuple[int, float]] = []
    async with grpc.aio.insecure_channel(cluster.grpc_address) as channel:
        channels = [grpc.aio.insecure_channel(address) for address in addresses]
        workers: list[Any] = [WorkerStub(one) for one in channels]
        for _ in range(count):
            prompt = [draw.randrange(3, 1000) for _ in range(draw.choice((40, 200, 700, 1500)))]
            sampling = SamplingParams(temperature=0.0, max_tokens=1000, ignore_eos=True)
            stub: Any = InferenceStub(channel)
            call = stub.Generate(GenerateRequest(token_ids=TokenIds(ids=prompt), sampling=sampling))
            tokens: list[int] = []
            reading = asyncio.create_task(_read(call, tokens))
            await asyncio.sleep(draw.uniform(0.005, 0.4))
            started_s = time.monotonic()
            call.cancel()
            await asyncio.gather(reading, return_exceptions=True)
            while await _holds(workers):
                if time.monotonic() - started_s > _GIVE_UP_S:
                    raise SystemExit(f"after {_GIVE_UP_S:g} s something is left: {cluster.leftovers()}")
                await asyncio.sleep(_PAUSE_S)
            seen.append((len(tokens), time.monotonic() - started_s))
        await asyncio.gather(*(one.close(None) for one in channels))
    return seen


async def _read(call: Any, tokens: list[int]) -> None:
    async for message in call:
        for choice in message.choices:
            tokens.extend(choice.token_ids)


async def _holds(workers: list[Any]) -> bool:
    for worker in workers:
        now = await worker.Describe(DescribeRequest())
        load = now.load
        if load.running_requests or load.waiting_requests or load.held_offers:
            return True
        if load.free_blocks != now.status.facts.kv_blocks:
            return True
    return False


def _address(cluster: Cluster, worker_id: str) -> str:
    log = (cluster.log_dir / f"{worker_id}.log").read_text(errors="replace")
    return str(re.findall(r'"?address"?[=:]\s*"?([\w.]+:\d+)', log)[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with segue_up(ensure_embedded_model(), Path(tempfile.mkdtemp(prefix="segue-cancel-")), ()) as cluster:
        seen = asyncio.run(measure(cluster, options.count, options.seed))
    seconds = [took_s for _, took_s in seen]
    figures = {
        "machine": describe_machine(),
        "cancelled": len(seen),
        "before_token_1": sum(not tokens for tokens, _ in seen),
        "free_after_ms": {f"p{p}": float(np.percentile(seconds, p) * 1000) for p in (50, 90, 99, 100)},
    }
    print(json.dumps(figures, indent=1))
    if options.json:
        options.json.write_text(json.dumps(figures | {"each": seen}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
