"""A flex worker with a real engine, which changes pools under load without loading its weights again."""

from __future__ import annotations

import asyncio
import os
import re
from itertools import cycle, islice
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

import pytest

from segue.client import SegueClient
from segue.cluster.pools_service import view_of
from segue.cluster.ports import choose_ports
from segue.cluster.run_files import find_pools
from segue.proto.pools_pb2 import TurnWorkerRequest, WatchPoolsRequest
from segue.proto.worker_pb2 import Role
from tests.cluster.streams import Streams
from tests.e2e.running import Cluster, assert_baseline, running_cluster

if TYPE_CHECKING:
    from segue.proto.pools_pb2_grpc import PoolsAsyncStub

TURNS = int(os.environ.get("SEGUE_TURNS", "2"))
TURNS_WITHIN_S = 2.0
WORKERS = ("prefill-0", "decode-0", "flex-0")
PREFILL, DECODE = Role.ROLE_PREFILL, Role.ROLE_DECODE
PROMPTS = [
    f"Once upon a time there were {number} bears, and " + "each of them had a house. " * 12 for number in range(4)
]


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("transport", ["grpc", pytest.param("nixl", marks=pytest.mark.variant)])
@pytest.mark.timeout(400)
async def test_it_turns_both_ways_under_streams_and_none_is_lost_or_changed(tmp_path: Path, transport: str) -> None:
    """With ``-s`` it prints how long each turn took, from the order until the worker was ready, by its own clock.
    ``SEGUE_TURNS`` is how often it turns."""
    pools_port = choose_ports("127.0.0.1").http
    arguments = ("--flex", "1", "--pools-port", str(pools_port), "--drain-timeout", "60")
    with running_cluster(tmp_path, *arguments, "--transport", transport, "--engine-arg", "dtype=float32") as cluster:
        loaded = cluster.describe("flex-0").register.epoch
        async with (
            SegueClient(cluster.grpc_address) as client,
            find_pools(f"127.0.0.1:{pools_port}").stub() as stub,
        ):
            streams, took = Streams(client, PROMPTS, answer_tokens=100), []
            await streams.learn()
            async with streams.flowing():
                await streams.more(4)
                for turns, role in enumerate(islice(cycle((PREFILL, DECODE)), TURNS), start=1):
                    if role == PREFILL:
                        await busy(cluster, streams)
                    took.append(await turned(stub, role))
                    now = cluster.describe("flex-0").register
                    assert (now.role, now.turns, now.epoch) == (role, turns, loaded)
                    at_once = cluster.describe("flex-0").status.facts.max_running_requests
                    assert (at_once == 1) == (role == PREFILL), "on CPU a prefill worker computes one prompt at a time"
                    before, enough = used(cluster, role), streams.answered + 60
                    while used(cluster, role) == before:  # The router may like the other worker better for a while.
                        assert streams.answered < enough, "it does not work in its new role"
                        await streams.more(2)
        assert streams.changed == []
        assert_baseline(cluster, within_s=10.0, workers=WORKERS)
        log = (tmp_path / "flex-0.log").read_text()
    said = re.findall(r'"empty_s": ([\d.]+), "ready_s": ([\d.]+)', log)
    print(f"{transport}: turns, seconds until empty and until ready: {said}")
    print(f"{streams.answered} answers, the longest pause within one {streams.longest_gap_s:.3f} s")
    assert [round(one, 3) for one in took] == [float(ready_s) for _, ready_s in said]
    # By the worker's own clock and under load. The median: the best would hide one direction that is always slow, and
    # the worst would fail for one pause of a busy machine, on which turns took 0.02 to 0.39 s. Of two it is their mean.
    assert median(took) < TURNS_WITHIN_S


async def busy(cluster: Cluster, streams: Streams) -> None:
    """Until it has answers to hand over; not for ever, since the router may like the other worker better."""
    enough = streams.answered + 12
    while streams.answered < enough and not cluster.describe("flex-0").load.running_requests:
        await asyncio.sleep(0.02)


def used(cluster: Cluster, role: Role) -> int:
    """What the worker has done that only this role does: prompts computed, or tokens beyond the first."""
    counters = cluster.describe("flex-0").counters
    prompts = counters.requests
    return prompts if role == PREFILL else counters.generated_tokens - prompts


async def turned(stub: PoolsAsyncStub, role: Role) -> float:
    """Have it turn, and wait until its pool has it back at work: the seconds that this took, as the pools tell them."""
    await stub.Turn(TurnWorkerRequest(worker_id="flex-0", role=role))
    async for state in stub.Watch(WatchPoolsRequest()):
        for pool in view_of(state).pools:
            for worker in pool.workers:
                if worker.worker_id == "flex-0" and worker.phase == "running":
                    assert pool.name == Role.Name(role).removeprefix("ROLE_").lower(), "it was not empty in time"
                    return worker.last_turn_s
    raise AssertionError("the stream ended")
