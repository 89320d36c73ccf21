"""Whatever happens to a request, whenever: it ends as it should, nobody keeps a block, and the next one is served."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Sequence

import grpc.aio
import pytest

from segue.proto.inference_pb2_grpc import InferenceStub
from tests.faults import faults
from tests.faults.asks import Ask
from tests.faults.cells import Cell, Fault, all_cells
from tests.faults.cluster import Cluster
from tests.faults.conftest import NEXT_ANSWER_TOKENS, NEXT_PROMPT_TOKENS, SEED, Record
from tests.faults.phases import Stage

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(240)]

Undisturbed = dict[tuple[int, ...], tuple[int, ...]]

# Beyond what the leases take: for polling, and for engines that share two cores.
_SOON_S = 3.0
_NEXT_TIMEOUT_S = 20.0
# Law 7 says 3 s, which it prints; twice that where five engines share two cores.
_ROUTER_FINDS_WORKERS_S = 6.0


@pytest.mark.matrix
@pytest.mark.parametrize(
    ("cluster", "cell"),
    [pytest.param(cell.transport, cell, id=cell.name) for cell in all_cells()],
    indirect=["cluster"],
    scope="package",  # Of the cluster; pytest would take the narrower one of the two.
)
async def test_cell(cluster: Cluster, cell: Cell, undisturbed: Undisturbed, record_property: Record) -> None:
    record_property("cell", cell.name)
    print(f"{cell.name}, seed {SEED}")
    # On this thread: what it starts ends with the thread that started it.
    cluster.restart_ended()
    await asyncio.to_thread(cluster.wait_whole if cell.needs_both_of_each else cluster.wait_serving)
    try:
        async with grpc.aio.insecure_channel(cluster.grpc_address()) as channel:
            baseline_s = await _live_through(cell, Stage(cell, cluster, InferenceStub(channel), SEED), undisturbed)
    finally:
        cluster.heal()
    async with grpc.aio.insecure_channel(cluster.grpc_address()) as channel:
        await _serves(cell, Stage(cell, cluster, InferenceStub(channel), SEED), undisturbed)
    record_property("freed_s", baseline_s)


async def _live_through(cell: Cell, stage: Stage, undisturbed: Undisturbed) -> float:
    """The request reaches its phase, meets the fault and ends; the seconds until all blocks were free."""
    cluster = stage.cluster
    ask = await stage.reach()
    await faults.strike(cell, cluster, ask)
    if not faults.lasts(cell.fault):
        stage.go_on()
    await ask.end()
    print(ask.history())
    outcome = ask.outcome(undisturbed[cell.prompt(SEED)])
    assert outcome in cell.outcomes, f"{outcome.value}: {ask.history()}"
    await _end_well(cell, stage.blockers)
    await faults.aftermath(cell, cluster)
    if cell.fault is Fault.CORRUPT_CHUNK:
        faults.assert_noticed(cell, cluster)
    # With the link still broken: that is no reason to keep blocks beyond a lease.
    baseline_s = await asyncio.to_thread(cluster.wait_baseline, cluster.lease_s + 3 * _SOON_S)
    if cell.fault is Fault.ROUTER_KILL:
        ready = sum(cluster.members[name].ready for name in cluster.workers)
        cluster.restart_ended("router")
        await _router_is_back(cluster, ready)
    return baseline_s


async def _end_well(cell: Cell, blockers: Sequence[Ask]) -> None:
    for blocker in blockers:
        await blocker.end()
        if cell.fault is not Fault.ROUTER_KILL:
            assert blocker.error is None, f"a request beside it failed: {blocker.history()}"


async def _router_is_back(cluster: Cluster, workers: int) -> None:
    """So many workers are found again soon after it listens."""
    host, _, port = cluster.worker_address().rpartition(":")
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                break
        await asyncio.sleep(0.02)
    listening_s = time.monotonic()
    while not cluster.router_knows(workers):
        took_s = time.monotonic() - listening_s
        assert took_s < _ROUTER_FINDS_WORKERS_S, f"the router has not found its workers within {took_s:.1f} s"
        await asyncio.sleep(0.05)
    print(f"the router found its workers {time.monotonic() - listening_s:.2f} s after it listened")


async def _serves(cell: Cell, stage: Stage, undisturbed: Undisturbed) -> None:
    prompt = cell.prompt(SEED, NEXT_PROMPT_TOKENS)
    ask = stage.ask(prompt, NEXT_ANSWER_TOKENS, _NEXT_TIMEOUT_S)
    await ask.end()
    assert ask.error is None, f"the next request: {ask.history()}"
    assert tuple(ask.tokens) == undisturbed[prompt], f"the next request: {ask.history()}"
    await asyncio.to_thread(stage.cluster.wait_baseline, _SOON_S)
