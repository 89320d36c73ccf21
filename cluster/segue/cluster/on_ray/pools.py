"""Both pools as Ray actors. Runs inside the manager's actor; what it knows it can learn again from Ray."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from segue.base.errors import Conflict
from segue.base.logging import get_logger
from segue.cluster.on_ray.mesh import Mesh
from segue.cluster.on_ray.process_actor import Place, ProcessActor
from segue.cluster.on_ray.settings import (
    FLEX,
    NAMESPACE,
    RayCluster,
    RayPool,
    RayWorker,
    RouterPorts,
    actor_options,
    worker_spec,
)
from segue.cluster.pools import POOL_NAMES, Phase, PoolName, PoolWorker
from segue.cluster.resizing import ResizablePools, Work, smallest_not_in
from segue.cluster.turning import FlexWorker

log = get_logger("pools")

# Room for an actor's own answers beside a stop that waits for a drain.
_ACTOR_CONCURRENCY = 4
_LOOK_S = 1.0
_ANSWER_S = 5.0
# After its drain a process still has an engine to shut down.
BEYOND_DRAIN_S = 5.0
MOST_WORKERS = 1024


@dataclass
class _Member:
    pool: PoolName
    number: int
    actor: Any
    group: Any
    phase: Phase = "restarting"  # Until it is seen to run for the first time.
    place: Place | None = None
    restarts: int = 0
    flex: bool = False
    asked: bool = True  # A flex worker is asked for its role in each life, and after a turn that nobody saw the end of.
    last_turn_s: float = 0.0
    looked_at: bool = False  # Just now.


class RayPools(ResizablePools):
    """``watch_actors`` must run beside it.

    Ray restarts a worker whose process or node is gone, as often as it takes; what can't be placed waits, and is what
    Ray's autoscaler is told of. With a ``mesh`` each worker gets a certificate.
    """

    def __init__(self, cluster: RayCluster, ports: RouterPorts, work: Work, mesh: Mesh | None = None) -> None:
        super().__init__("ray", work)
        self._cluster = cluster
        self._ports = ports
        self._mesh = mesh
        self._operator = None if mesh is None else mesh.operator()  # With it flex workers are told to turn.
        self._members: dict[str, _Member] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._turning: set[asyncio.Task[None]] = set()

    def adopt(self) -> None:
        """Take over the workers that are there: those of a manager that was lost."""
        for name in ray.util.list_named_actors():
            kind, _, number = name.rpartition("-")
            flex = kind == FLEX
            pool = next((one for one in POOL_NAMES if one == kind), self._cluster.flex_start_as if flex else None)
            if pool is not None and number.isdecimal():
                group = ray.util.get_placement_group(name)
                actor = ray.get_actor(name)
                self._members[name] = _Member(pool, int(number), actor, group, flex=flex, asked=not flex)

    def start(self) -> None:
        """Start what the cluster begins with and isn't there."""
        nobody = not self._members
        for _ in range(self._cluster.flex.workers if self._cluster.flex is not None and nobody else 0):
            self._add_flex()
        for pool in self.view().pools:
            if nobody or not pool.workers:
                for _ in range(self._cluster.workers_of(pool.name) - pool.desired):
                    self.add(pool.name)
        self.tell()

    def pool_of(self, worker_id: str) -> PoolName | None:
        """Where a worker counts; None: there is none of that name, or a flex worker has not been asked yet."""
        member = self._members.get(worker_id)
        return member.pool if member is not None and member.asked else None

    async def watch_actors(self) -> None:
        """Look at every worker now and then. Never returns."""
        async with asyncio.TaskGroup() as looks:
            while True:
                # Each by itself: one that waits for resources, or whose node is gone, answers late or never.
                for name, member in self._members.items():
                    if member.phase != "leaving" and not member.looked_at:
                        member.looked_at = True
                        looks.create_task(self._look(name, member), name=f"look at {name}")
                await asyncio.sleep(_LOOK_S)

    async def _look(self, name: str, member: _Member) -> None:
        try:
            place = await _place(member, _ANSWER_S)
            if member.phase == "leaving":
                return
            self._seen(name, member, place)
            if place is not None and place.stopping:  # A manager before this one let it go.
                self.let_go(name)
            elif place is not None and not member.asked and member.phase == "running":
                await self._ask(name, member, place)
        finally:
            member.looked_at = False

    async def stop_all(self) -> None:
        """Let every worker go and wait for it."""
        for name, member in list(self._members.items()):
            if member.phase != "leaving":
                self.let_go(name)
        await asyncio.gather(*self._leaving)

    # What differs from other pools

    def workers(self, pool: PoolName) -> list[PoolWorker]:
        return [self._worker(name, member) for name, member in self._members.items() if member.pool == pool]

    def _worker(self, name: str, member: _Member) -> PoolWorker:
        place = member.place
        return PoolWorker(
            worker_id=name,
            phase=member.phase,
            place="waiting for resources" if place is None else f"{place.host} ({place.node_id[:8]})",
            process="" if place is None or member.phase == "restarting" else f"pid {place.pid}",
            restarts=member.restarts,
            flex=member.flex,
            resources=self._cluster.settings_of(RayWorker(member.pool, member.number, member.flex)).bundle(),
            last_turn_s=member.last_turn_s,
        )

    def check_room(self, desired: Mapping[PoolName, int]) -> None:
        for name, count in desired.items():
            if count > MOST_WORKERS:
                raise Conflict(f"{name} is to have {count} workers; {MOST_WORKERS} are the most")

    def add(self, pool: PoolName) -> None:
        taken = {member.number for member in self._members.values() if member.pool == pool and not member.flex}
        self._start(RayWorker(pool, smallest_not_in(taken)))

    def _add_flex(self) -> None:
        taken = {member.number for member in self._members.values() if member.flex}
        self._start(RayWorker(self._cluster.flex_start_as, smallest_not_in(taken), flex=True))

    def _start(self, worker: RayWorker) -> None:
        settings = self._cluster.settings_of(worker)
        name = worker.name
        group = reserve(settings, name)
        kind = FLEX if worker.flex else worker.pool
        files = {} if self._mesh is None else self._mesh.of_worker(f"{kind}/{name}")
        actor = (
            ray.remote(ProcessActor)
            .options(
                name=name,
                namespace=NAMESPACE,
                lifetime="detached",
                max_restarts=-1,
                max_concurrency=_ACTOR_CONCURRENCY,
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=0),
                **actor_options(settings),
            )
            .remote(worker_spec(self._cluster, self._ports, worker, files))
        )
        self._members[name] = _Member(worker.pool, worker.number, actor, group, flex=worker.flex)

    def begin_turn(self, worker_id: str, pool: PoolName) -> None:
        member = self._members[worker_id]
        assert member.place is not None, "runs nowhere"
        task = asyncio.ensure_future(self._turn(worker_id, member, member.pool, self._flex(worker_id, member.place)))
        member.pool, member.phase = pool, "turning"
        self._turning.add(task)
        task.add_done_callback(self._turning.discard)

    async def _turn(self, name: str, member: _Member, old: PoolName, worker: FlexWorker) -> None:
        ready_s = await worker.turn(member.pool, self._cluster.drain_timeout_s)
        if member.phase != "turning":  # It leaves, or has died; in its next life it is asked.
            return
        member.phase = "running"
        if ready_s is None:
            # It may yet turn, or have turned unheard.
            member.pool, member.asked = old, False
        else:
            member.last_turn_s = ready_s
        self.tell()

    async def _ask(self, name: str, member: _Member, place: Place) -> None:
        """Which role a flex worker has: in a new life, or when this manager is new."""
        pool = await self._flex(name, place).pool()
        if pool is None or member.phase != "running":
            return
        member.asked = True
        if pool != member.pool:
            member.pool = pool
            self.tell()

    def _flex(self, name: str, place: Place) -> FlexWorker:
        return FlexWorker(name, f"{place.host}:{place.port}", self._operator)

    def let_go(self, worker_id: str) -> None:
        member = self._members[worker_id]
        runs = member.phase != "restarting"
        member.phase = "leaving"
        task = asyncio.ensure_future(self._leave(worker_id, member, runs))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, name: str, member: _Member, runs: bool) -> None:
        # One that has no place to run has nothing to finish, and is not to be asked for any longer.
        if runs or await _place(member, _ANSWER_S) is not None:
            await self._drained(name, member)
        ray.kill(member.actor, no_restart=True)
        remove_placement_group(member.group)
        del self._members[name]
        self.tell()

    async def _drained(self, name: str, member: _Member) -> None:
        grace_s = self._cluster.drain_timeout_s + BEYOND_DRAIN_S
        try:
            await asyncio.wait_for(_answer(member.actor.stop.remote(grace_s)), grace_s + _ANSWER_S)
        except (RayError, TimeoutError) as error:
            log.warning("worker_left_hard", worker_id=name, error=str(error).partition("\n")[0])

    def _seen(self, name: str, member: _Member, place: Place | None) -> None:
        before = member.phase, member.place
        if place is None:
            if member.phase != "restarting":
                log.warning("worker_lost", worker_id=name)
            member.phase = "restarting"
        else:
            new_life = place != member.place
            member.restarts += new_life and member.place is not None
            # One that was only not heard for a while may have ended its turn meanwhile.
            if new_life or member.phase == "restarting":
                member.phase, member.asked = "running", not member.flex
            member.place = place
        if before != (member.phase, member.place):
            self.tell()


def reserve(pool: RayPool, name: str) -> Any:
    """A placement group for one worker of a pool: what it takes, on one node that has the pool's labels."""
    return placement_group(
        [pool.bundle()],
        strategy="STRICT_PACK",
        name=name,
        lifetime="detached",
        bundle_label_selector=[dict(pool.labels)] if pool.labels else None,
    )


async def _place(member: _Member, timeout_s: float) -> Place | None:
    """None: it runs nowhere now."""
    try:
        place: Place = await asyncio.wait_for(_answer(member.actor.place.remote()), timeout_s)
    except (RayError, TimeoutError):
        return None
    return place


async def _answer(reference: Any) -> Any:
    return await reference
