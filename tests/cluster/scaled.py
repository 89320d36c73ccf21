"""Pools as ``segue.v1.Pools`` tells of them: asking for so many workers, and waiting until they are there."""

from __future__ import annotations

from typing import Any

from segue.cluster.pools import PoolsView
from segue.cluster.pools_service import view_of
from segue.proto.pools_pb2 import ScaleRequest, WatchPoolsRequest
from segue.proto.worker_pb2 import Role


def scaled(prefill: int, decode: int) -> ScaleRequest:
    pools = ((Role.ROLE_PREFILL, prefill), (Role.ROLE_DECODE, decode))
    return ScaleRequest(targets=[ScaleRequest.Target(role=role, workers=workers) for role, workers in pools])


async def settled(stub: Any, *counts: int, restarts: int = 0) -> PoolsView:
    """The first view in which the pools have so many workers, all of them running, after so many restarts."""
    async for state in stub.Watch(WatchPoolsRequest()):
        view = view_of(state)
        workers = [worker for pool in view.pools for worker in pool.workers]
        enough = [len(pool.workers) for pool in view.pools] == [*counts] and sum(
            w.restarts for w in workers
        ) >= restarts
        if enough and all(worker.phase == "running" for worker in workers):
            return view
    raise AssertionError("the stream ended")
