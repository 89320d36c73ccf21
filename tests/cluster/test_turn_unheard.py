"""A flex worker's turn of which nobody hears the end; without processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from segue.cluster import local_pools
from segue.cluster.environment import Machine
from segue.cluster.local import FlexSettings, LocalCluster
from segue.cluster.local_pools import LocalPools
from segue.cluster.pools import PoolName
from segue.cluster.ports import Ports
from segue.cluster.resizing import nobody_works
from segue.cluster.turning import FlexWorker
from segue.proto.worker_pb2 import (
    WORKER_STATE_DRAINING,
    WORKER_STATE_READY,
    DescribeRequest,
    DescribeResponse,
    DrainRequest,
    DrainResponse,
    Register,
    Role,
    Status,
    TurnRequest,
    TurnResponse,
    WorkerState,
)
from segue.proto.worker_pb2_grpc import WorkerServicer, add_WorkerServicer_to_server


def says(role: Role, state: WorkerState) -> DescribeResponse:
    return DescribeResponse(register=Register(role=role), status=Status(state=state))


class Worker(WorkerServicer):
    """Breaks off every turn, and says of itself one after the other what it is told to say."""

    def __init__(self, *said: DescribeResponse) -> None:
        self._said: Iterator[DescribeResponse] = iter(said)

    async def Turn(self, request: TurnRequest, context: Any) -> TurnResponse:
        await context.abort(grpc.StatusCode.UNAVAILABLE, "the connection is gone")
        raise AssertionError("unreachable: abort raises")

    async def Drain(self, request: DrainRequest, context: Any) -> DrainResponse:
        raise AssertionError("nobody drains here")

    async def Describe(self, request: DescribeRequest, context: Any) -> DescribeResponse:
        return next(self._said)


@asynccontextmanager
async def served(worker: Worker) -> AsyncIterator[int]:
    server = grpc.aio.server()
    add_WorkerServicer_to_server(worker, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


async def test_while_it_turns_nobody_knows_its_role() -> None:
    worker = Worker(says(Role.ROLE_DECODE, WORKER_STATE_DRAINING), says(Role.ROLE_PREFILL, WORKER_STATE_READY))
    async with served(worker) as port:
        flex = FlexWorker("flex-0", f"127.0.0.1:{port}")
        assert [await flex.pool(), await flex.pool()] == [None, "prefill"]


@pytest.mark.parametrize(("role", "pool"), [(Role.ROLE_PREFILL, "prefill"), (Role.ROLE_DECODE, "decode")])
async def test_it_counts_for_the_pool_whose_role_it_has_in_the_end(
    monkeypatch: pytest.MonkeyPatch, role: Role, pool: PoolName
) -> None:
    monkeypatch.setattr(local_pools, "_ASK_AGAIN_S", 0.01)
    worker = Worker(says(Role.ROLE_DECODE, WORKER_STATE_DRAINING), says(role, WORKER_STATE_READY))
    async with served(worker) as port:
        monkeypatch.setattr(local_pools, "free_port", lambda _: port)
        cluster = LocalCluster("model", Path("/run"), Ports(1, 2, 3), "cpu", flex=FlexSettings(1, "decode"))
        pools = LocalPools(cluster, Machine((0,)), nobody_works)
        pools.specs()
        await pools.turn("flex-0", "prefill")
        assert [one.desired for one in pools.view().pools] == [2, 1]
        async for view in pools.watch():
            phases = {one.worker_id: (each.name, one.phase) for each in view.pools for one in each.workers}
            if phases["flex-0"][1] == "running":
                break
        assert phases["flex-0"] == (pool, "running")
