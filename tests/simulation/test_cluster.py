"""From a client's request to its last token, with everything real but the engines."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import grpc.aio

from segue.proto.inference_pb2 import GenerateRequest, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import DescribeRequest
from segue.proto.worker_pb2_grpc import WorkerStub
from tests.e2e.processes import assert_gone, tree
from tests.simulated import SimulatedCluster, running_simulation


async def generate(
    cluster: SimulatedCluster, prompt: list[int], max_tokens: int, **sampling: Any
) -> tuple[list[int], Any]:
    """The answer's tokens as they came, and the last message."""
    request = GenerateRequest(
        token_ids=TokenIds(ids=prompt), sampling=SamplingParams(max_tokens=max_tokens, ignore_eos=True, **sampling)
    )
    tokens: list[int] = []
    last = None
    async with grpc.aio.insecure_channel(cluster.grpc_address) as channel:
        async for message in InferenceStub(channel).Generate(request, timeout=30):
            tokens += [token for delta in message.choices for token in delta.token_ids]
            last = message
    return tokens, last


async def test_streams_are_the_expected_tokens_and_nothing_stays_behind(simulated_cluster: SimulatedCluster) -> None:
    prompts = [[5, 6, 7, *range(10, 10 + 20 * number)] for number in range(1, 9)]
    answers = await asyncio.gather(*(generate(simulated_cluster, prompt, 20) for prompt in prompts))
    for prompt, (tokens, _) in zip(prompts, answers, strict=True):
        assert tokens == simulated_cluster.expected(prompt, 20)
    log = (simulated_cluster.log_dir / "workers-0.log").read_text()
    addresses = [line["address"] for line in map(json.loads, log.splitlines()) if line["event"] == "listening"]
    assert len(addresses) == 2
    for address in addresses:
        async with grpc.aio.insecure_channel(address) as channel:
            for _ in range(100):
                seen = await WorkerStub(channel).Describe(DescribeRequest())
                if seen.load.free_blocks == seen.status.facts.kv_blocks:
                    break
                await asyncio.sleep(0.02)
            assert seen.load.free_blocks == seen.status.facts.kv_blocks
            assert seen.load.held_offers == seen.load.running_requests == seen.load.waiting_requests == 0
            assert seen.status.facts.simulated


async def test_both_paths_give_the_same_answer(simulated_cluster: SimulatedCluster) -> None:
    prompt = list(range(100, 150))
    seeded, exact = await asyncio.gather(
        generate(simulated_cluster, prompt, 12), generate(simulated_cluster, prompt, 12, seed=3)
    )
    assert seeded[0] == exact[0] == simulated_cluster.expected(prompt, 12)


def test_it_says_simulated_wherever_it_shows(simulated_cluster: SimulatedCluster) -> None:
    def get(path: str) -> Any:
        with urllib.request.urlopen(simulated_cluster.http_url + path) as response:
            return json.load(response)

    assert "simulated: 1 prefill and 1 decode" in (simulated_cluster.log_dir / "simulate.log").read_text()
    assert all(worker["simulated"] for worker in get("/readyz")["workers"])
    assert {worker["detail"] for worker in get("/readyz")["workers"]} == {"ready, simulated H100"}
    assert get("/v1/models")["data"][0]["simulated"] is True
    for log in ("router.log", "workers-0.log"):
        assert "simulated" in (simulated_cluster.log_dir / log).read_text()


def test_many_workers_share_processes_and_end_with_their_parent(tmp_path: Path) -> None:
    with running_simulation(tmp_path, "--prefill", "6", "--decode", "6", "--processes", "2") as cluster:
        processes = tree(cluster.process.pid)
        workers = [process for process in processes if "simulated-workers" in process.command]
        assert len(workers) == 2
        cluster.process.kill()
        cluster.process.wait()
        assert_gone(processes)
    logs = "".join((tmp_path / f"workers-{number}.log").read_text() for number in range(2))
    ready = set(re.findall(r'"worker_id": "((?:prefill|decode)-\d)"', logs))
    assert ready == {f"{role}-{number}" for role in ("prefill", "decode") for number in range(6)}
