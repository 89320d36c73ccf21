"""Pools without processes: workers come and go at once, or when a test says so."""

from __future__ import annotations

from collections.abc import Mapping

from segue.base.errors import Conflict
from segue.cluster.pools import POOL_NAMES, PoolName, PoolWorker
from segue.cluster.resizing import ResizablePools, nobody_works


class FakePools(ResizablePools):
    def __init__(self, prefill: int, decode: int, room: int = 100, *, flex: bool = False) -> None:
        super().__init__("fake", nobody_works)
        self.room = room
        self.flex = flex
        self.members: dict[PoolName, list[PoolWorker]] = {"prefill": [], "decode": []}
        for pool, count in (("prefill", prefill), ("decode", decode)):
            for _ in range(count):
                self.add("prefill" if pool == "prefill" else "decode")

    def workers(self, pool: PoolName) -> list[PoolWorker]:
        return self.members[pool]

    def check_room(self, desired: Mapping[PoolName, int]) -> None:
        if sum(desired.values()) > self.room:
            raise Conflict(f"there is room for {self.room}")

    def add(self, pool: PoolName) -> None:
        name = f"{pool}-{len(self.members[pool])}"
        self.members[pool].append(PoolWorker(name, "running", "here", flex=self.flex))

    def let_go(self, worker_id: str) -> None:
        for members in self.members.values():
            members[:] = [one for one in members if one.worker_id != worker_id]

    def begin_turn(self, worker_id: str, pool: PoolName) -> None:
        worker = next(one for each in self.members.values() for one in each if one.worker_id == worker_id)
        self.let_go(worker_id)
        self.members[pool].append(worker)

    def counts(self) -> tuple[int, ...]:
        return tuple(self.view().of(pool).desired for pool in POOL_NAMES)
