"""Scaling, draining and watching, the same wherever workers run: what differs is how one is started and let go."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from segue.base.errors import Conflict, InvalidRequest, NotFound
from segue.cluster.pools import POOL_NAMES, PoolName, PoolsView, PoolView, PoolWorker, victims

# By worker id, how much each has to do, in any unit.
Work = Callable[[], Awaitable[Mapping[str, float]]]


async def nobody_works() -> Mapping[str, float]:
    """Where nothing is known of loads, the youngest workers go."""
    return {}


class ResizablePools(ABC):
    """A :class:`~segue.cluster.pools.Pools`. ``work`` says which workers have the least to do when some must go.

    How many workers a pool should have is how many it has that don't leave: starting and letting go begin at once.
    """

    def __init__(self, backend: str, work: Work) -> None:
        self._backend = backend
        self._work = work
        self._changed = asyncio.Event()
        self._resizing = asyncio.Lock()

    @abstractmethod
    def workers(self, pool: PoolName) -> list[PoolWorker]:
        """Of one pool, with those that leave."""

    @abstractmethod
    def check_room(self, desired: Mapping[PoolName, int]) -> None:
        """Raises Conflict if the pools can't have so many workers."""

    @abstractmethod
    def add(self, pool: PoolName) -> None:
        """Start one more worker."""

    @abstractmethod
    def let_go(self, worker_id: str) -> None:
        """Mark one worker as leaving, and let it drain."""

    @abstractmethod
    def begin_turn(self, worker_id: str, pool: PoolName) -> None:
        """Have a running flex worker change to the other pool."""

    def view(self) -> PoolsView:
        pools = []
        for name in POOL_NAMES:
            workers = tuple(self.workers(name))
            pools.append(PoolView(name, sum(worker.phase != "leaving" for worker in workers), workers))
        return PoolsView(self._backend, tuple(pools))

    async def scale(self, desired: Mapping[PoolName, int]) -> None:
        for name, count in desired.items():
            if count < 1:
                raise InvalidRequest(f"{name} is to have {count} workers; a pool has at least 1", param=name)
        async with self._resizing:
            work = await self._work()
            now = self.view()
            self.check_room({pool.name: desired.get(pool.name, pool.desired) for pool in now.pools})
            # First who goes: who comes may take the place.
            for name, count in desired.items():
                for leaver in victims(now.of(name).workers, now.of(name).desired - count, work):
                    self.let_go(leaver)
            for name, count in desired.items():
                for _ in range(count - now.of(name).desired):
                    self.add(name)
            self.tell()

    async def drain(self, worker_id: str) -> None:
        async with self._resizing:
            pools = self.view().pools
            staying = {worker.worker_id: pool for pool in pools for worker in pool.workers if worker.phase != "leaving"}
            pool = staying.get(worker_id)
            if pool is None:
                known = ", ".join(staying) or "none"
                raise NotFound(f"there is no worker {worker_id!r} that could leave; workers: {known}")
            if pool.desired == 1:
                raise Conflict(f"{worker_id} is the last {pool.name} worker; scale {pool.name} to 2 first")
            self.let_go(worker_id)
            self.tell()

    async def turn(self, worker_id: str, pool: PoolName) -> None:
        async with self._resizing:
            now = self.view()
            found = [(old, one) for old in now.pools for one in old.workers if one.worker_id == worker_id]
            if not found or found[0][1].phase == "leaving":
                known = ", ".join(one.worker_id for old in now.pools for one in old.workers if one.flex) or "none"
                raise NotFound(f"there is no worker {worker_id!r} that could turn; flex workers: {known}")
            old, worker = found[0]
            if old.name == pool:
                return
            if not worker.flex:
                raise Conflict(
                    f"{worker_id} was started as a {old.name} worker and stays one; segue up --flex starts workers "
                    "that may turn"
                )
            if worker.phase != "running":
                raise Conflict(f"{worker_id} is {worker.phase}; try again when it runs")
            if old.desired == 1:
                raise Conflict(f"{worker_id} is the last {old.name} worker; scale {old.name} to 2 first")
            self.begin_turn(worker_id, pool)
            self.tell()

    async def watch(self) -> AsyncIterator[PoolsView]:
        while True:
            changed = self._changed
            yield self.view()
            await changed.wait()

    def tell(self) -> None:
        """Something has changed: whoever watches is to look."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def smallest_not_in(taken: set[int]) -> int:
    """The number for one more."""
    return next(number for number in range(len(taken) + 1) if number not in taken)
