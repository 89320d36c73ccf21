"""Both pools of one PDCluster as :class:`segue.cluster.pools.Pools`: through the scale subresource of its PDPools."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import aiohttp

from segue.base.errors import Conflict, InvalidRequest, NotFound, SegueError, Unavailable
from segue.base.logging import get_logger
from segue.cluster.pools import PoolName, PoolsView
from segue.operator.api import Api, ApiError
from segue.operator.names import LEAVE_FIRST, Manifest, pool_name
from segue.operator.shown import mode_of, read_cluster, view_of

log = get_logger("pools")

_LOOK_S = 1.0
# The operator writes to a pool's status, which changes its version, every second while workers come or go.
_TRIES = 10
_CHANGED = 409


@contextmanager
def _told(what: str, but: int = 0) -> Iterator[None]:
    """Raises Conflict or NotFound with the API server's own words if it refuses, Unavailable if it isn't reached;
    ApiError as it is if its status is ``but``."""
    try:
        yield
    except ApiError as error:
        if error.status == but:
            raise
        raise (NotFound if error.status == 404 else Conflict)(f"{what}: {error.message}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise Unavailable(f"the API server wasn't reached: {error!r}; try again") from None


class KubernetesPools:
    """Reads the cluster's objects every second while it is entered. What changes is written to them alone: the operator
    acts on it, wherever it runs."""

    def __init__(self, api: Api, namespace: str, cluster: str) -> None:
        self._api = api
        self._namespace = namespace
        self._cluster = cluster
        self._view = PoolsView("kubernetes", ())
        self._changed = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._looking = asyncio.create_task(self._look_on(), name="kubernetes-pools")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait([self._looking])

    def view(self) -> PoolsView:
        return self._view

    async def scale(self, desired: Mapping[PoolName, int]) -> None:
        for name, count in desired.items():
            if count < 1:
                raise InvalidRequest(f"{name} is to have {count} workers; a pool has at least 1", param=name)
        await self._check_mode(desired)
        # Both or none, where one of them may be refused.
        pools = {pool_name(self._cluster, name): count for name, count in desired.items()}
        for pool, count in pools.items():
            with _told(f"PDPool {pool}"):
                await self._api.check_scale(self._namespace, pool, count)
        for pool, count in pools.items():
            await self._asked("PDPool", pool, {"spec": {"replicas": count}}, "scale")
        await self._look()

    async def drain(self, worker_id: str) -> None:
        await self._look()
        pool = next(
            (pool for pool in self._view.pools for worker in pool.workers if worker.worker_id == worker_id), None
        )
        if pool is None or next(one for one in pool.workers if one.worker_id == worker_id).phase == "leaving":
            known = ", ".join(one.worker_id for pool in self._view.pools for one in pool.workers) or "none"
            raise NotFound(f"there is no worker {worker_id!r} that could leave; workers: {known}")
        if pool.desired == 1:
            raise Conflict(f"{worker_id} is the last {pool.name} worker; scale {pool.name} to 2 first")
        await self._check_mode({pool.name: pool.desired - 1})
        # Named before the pool is one smaller: whoever then looks for a victim finds this one.
        await self._name(worker_id, f"{time.time():.3f}")
        try:
            await self._one_less(pool.name, worker_id)
        except (Conflict, NotFound):
            await self._unname(worker_id)
            raise
        await self._look()

    async def turn(self, worker_id: str, pool: PoolName) -> None:
        """Always Conflict: a pod belongs to its pool's Deployment by its labels, and keeps its role."""
        raise Conflict(
            f"{worker_id} can't turn to {pool}: on Kubernetes a pod keeps its role; scale the two pools instead"
        )

    async def watch(self) -> AsyncIterator[PoolsView]:
        while True:
            changed = self._changed
            yield self._view
            await changed.wait()

    async def _name(self, worker_id: str, since: str | None) -> None:
        await self._asked("Pod", worker_id, {"metadata": {"annotations": {LEAVE_FIRST: since}}})

    async def _unname(self, worker_id: str) -> None:
        """After a refusal, which is what the caller hears of; where this fails the operator does it, later."""
        try:
            await self._name(worker_id, None)
            await self._look()
        except SegueError as error:
            log.warning("name_not_taken_back", worker_id=worker_id, error=repr(error))

    async def _check_mode(self, desired: Mapping[PoolName, int]) -> None:
        cluster = await self._read("PDCluster", self._cluster)
        mode = mode_of(cluster)
        if mode != "External":
            roles = " and ".join(desired)
            fixed = f"change spec.{next(iter(desired))}.replicas of the PDCluster" if mode == "Fixed" else "let it"
            raise Conflict(
                f"scaling.mode of PDCluster {self._cluster} is {mode}, which sets how many {roles} workers there are; "
                f"{fixed}, or set the mode to External"
            )

    async def _one_less(self, pool: PoolName, worker_id: str) -> None:
        """Than there are by then: of two who each drain one worker neither may write the other's number again."""
        name = pool_name(self._cluster, pool)
        for _ in range(_TRIES):
            live = await self._read("PDPool", name)
            count = live["spec"]["replicas"] - 1
            if count < 1:
                break
            change = {"metadata": {"resourceVersion": live["metadata"]["resourceVersion"]}, "spec": {"replicas": count}}
            try:
                with _told(f"PDPool {name}", but=_CHANGED):
                    await self._api.patch("PDPool", self._namespace, name, change, "scale")
            except ApiError:  # Somebody changed it since: all else is told as what it is.
                continue
            return
        raise Conflict(f"{pool} is changed by others just now, and {worker_id} stays; look, and drain it again")

    async def _asked(self, kind: str, name: str, change: Manifest, subresource: str = "") -> None:
        with _told(f"{kind} {name}"):
            await self._api.patch(kind, self._namespace, name, change, subresource)

    async def _read(self, kind: str, name: str) -> Manifest:
        with _told(f"{kind} {name}"):
            found = await self._api.get(kind, self._namespace, name)
        if found is None:
            raise NotFound(f"there is no {kind} {name} in namespace {self._namespace}")
        return found

    async def _look_on(self) -> None:
        while True:
            try:
                await self._look()
            except SegueError as error:
                log.warning("pools_not_read", cluster=self._cluster, error=repr(error))
            await asyncio.sleep(_LOOK_S)

    async def _look(self) -> None:
        with _told(f"PDCluster {self._cluster}"):
            view = view_of(await read_cluster(self._api, self._namespace, self._cluster))
        if view != self._view:
            self._view = view
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
