"""``segue.v1.Pools`` over any :class:`~segue.cluster.pools.Pools`, and its messages as values for whoever calls it."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable
from typing import Any, NoReturn

import grpc.aio

from segue.base.errors import InvalidRequest, SegueError
from segue.base.logging import get_logger
from segue.cluster.pools import POOL_NAMES, Phase, PoolName, Pools, PoolsView, PoolView, PoolWorker
from segue.proto.pools_pb2 import (
    POOL_WORKER_PHASE_LEAVING,
    POOL_WORKER_PHASE_RESTARTING,
    POOL_WORKER_PHASE_RUNNING,
    POOL_WORKER_PHASE_TURNING,
    DrainWorkerRequest,
    ListPoolsRequest,
    Pool,
    PoolsState,
    PoolWorkerPhase,
    ScaleRequest,
    TurnWorkerRequest,
    WatchPoolsRequest,
)
from segue.proto.pools_pb2 import PoolWorker as PoolWorkerMessage
from segue.proto.pools_pb2_grpc import PoolsServicer
from segue.proto.worker_pb2 import Role

log = get_logger("pools")

ROLES: dict[PoolName, Role] = {"prefill": Role.ROLE_PREFILL, "decode": Role.ROLE_DECODE}
_NAMES = {role: name for name, role in ROLES.items()}
_PHASES: dict[Phase, PoolWorkerPhase] = {
    "running": POOL_WORKER_PHASE_RUNNING,
    "leaving": POOL_WORKER_PHASE_LEAVING,
    "restarting": POOL_WORKER_PHASE_RESTARTING,
    "turning": POOL_WORKER_PHASE_TURNING,
}
_PHASE_NAMES = {number: name for name, number in _PHASES.items()}

_Context = grpc.aio.ServicerContext[Any, PoolsState]


class PoolsService(PoolsServicer):
    """Every error of the pools is told with its own status; see pools.proto for which there are."""

    def __init__(self, pools: Pools) -> None:
        self._pools = pools

    async def List(self, request: ListPoolsRequest, context: _Context) -> PoolsState:
        return message_of(self._pools.view())

    async def Scale(self, request: ScaleRequest, context: _Context) -> PoolsState:
        try:
            desired = _desired(request.targets)
            await self._pools.scale(desired)
        except SegueError as error:
            await _abort(context, error)
        log.info("scaled", **desired)
        return message_of(self._pools.view())

    async def Drain(self, request: DrainWorkerRequest, context: _Context) -> PoolsState:
        try:
            await self._pools.drain(request.worker_id)
        except SegueError as error:
            await _abort(context, error)
        log.info("worker_drained", worker_id=request.worker_id)
        return message_of(self._pools.view())

    async def Turn(self, request: TurnWorkerRequest, context: _Context) -> PoolsState:
        try:
            pool = _NAMES.get(request.role)
            if pool is None:
                raise InvalidRequest(f"name the role to turn to: {' or '.join(POOL_NAMES)}; seen: {request.role}")
            await self._pools.turn(request.worker_id, pool)
        except SegueError as error:
            await _abort(context, error)
        log.info("worker_turns", worker_id=request.worker_id, pool=pool)
        return message_of(self._pools.view())

    async def Watch(self, request: WatchPoolsRequest, context: _Context) -> AsyncIterator[PoolsState]:
        async for view in self._pools.watch():
            yield message_of(view)


def message_of(view: PoolsView) -> PoolsState:
    return PoolsState(
        backend=view.backend, pools=[_pool_message(pool) for pool in view.pools], scaling_mode=view.scaling_mode
    )


def view_of(message: PoolsState) -> PoolsView:
    """The reverse. Raises KeyError for a pool of a role that is none of ours."""
    return PoolsView(message.backend, tuple(_pool_view(pool) for pool in message.pools), message.scaling_mode)


def _pool_message(pool: PoolView) -> Pool:
    workers = [
        PoolWorkerMessage(
            worker_id=worker.worker_id,
            phase=_PHASES[worker.phase],
            place=worker.place,
            restarts=worker.restarts,
            process=worker.process,
            flex=worker.flex,
            address=worker.address,
            epoch=worker.epoch,
            resources=worker.resources,
            last_turn_s=worker.last_turn_s,
        )
        for worker in pool.workers
    ]
    return Pool(
        role=ROLES[pool.name],
        desired=pool.desired,
        workers=workers,
        recommended=pool.recommended,
        reason=pool.reason,
    )


def _pool_view(pool: Pool) -> PoolView:
    workers = tuple(
        PoolWorker(
            worker_id=worker.worker_id,
            phase=_PHASE_NAMES[worker.phase],
            place=worker.place,
            process=worker.process,
            restarts=worker.restarts,
            flex=worker.flex,
            address=worker.address,
            epoch=worker.epoch,
            resources=dict(worker.resources),
            last_turn_s=worker.last_turn_s,
        )
        for worker in pool.workers
    )
    recommended = pool.recommended if pool.HasField("recommended") else None
    return PoolView(_NAMES[pool.role], pool.desired, workers, recommended, pool.reason)


def _desired(targets: Iterable[ScaleRequest.Target]) -> dict[PoolName, int]:
    named = Counter(target.role for target in targets)
    unknown = [role for role in named if role not in _NAMES]
    if not named or unknown:
        raise InvalidRequest(f"name the pools to scale: {' or '.join(POOL_NAMES)}; seen: {unknown or 'none'}")
    if (twice := [_NAMES[role] for role, times in named.items() if times > 1]) != []:
        raise InvalidRequest(f"{', '.join(twice)} is named twice; give each pool one number")
    return {_NAMES[target.role]: target.workers for target in targets}


async def _abort(context: _Context, error: SegueError) -> NoReturn:
    await context.abort(error.grpc_status, error.message)
    raise AssertionError("unreachable: abort raises")
