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
from segue.cluster.on_ray.settings import NAMESPACE, RayCluster, RayWorker, RouterPorts, actor_options, worker_spec
from segue.cluster.pools import POOL_NAMES, Phase, PoolName, PoolWorker
from segue.cluster.resizing import ResizablePools, Work, smallest_not_in

log = get_logger("pools")

# Room for the actor's own answers beside a stop that waits for a drain.
_ACTOR_CONCURRENCY = 4
_LOOK_S = 1.0
_ANSWER_S = 5.0
_BEYOND_DRAIN_S = 10.0
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


class RayPools(ResizablePools):
    """``watch_actors`` must run beside it.

    Ray restarts a worker whose process or node is gone, as often as it takes; what can't be placed waits, and is what
    Ray's autoscaler is told of.
    """

    def __init__(self, cluster: RayCluster, ports: RouterPorts, work: Work, mesh: Mesh | None = None) -> None:
        super().__init__("ray", work)
        self._cluster = cluster
        self._ports = ports
        self._mesh = mesh
        self._members: dict[str, _Member] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def adopt(self) -> None:
        """Take over the workers that are there: those of a manager that was lost."""
        for name in ray.util.list_named_actors():
            pool, _, number = name.rpartition("-")
            if pool in POOL_NAMES and number.isdecimal():
                group = ray.util.get_placement_group(name)
                self._members[name] = _Member(pool, int(number), ray.get_actor(name), group)

    async def watch_actors(self) -> None:
        """Look at every worker now and then. Never returns."""
        while True:
            for name, member in list(self._members.items()):
                if member.phase == "leaving":
                    continue
                try:
                    place = await asyncio.wait_for(_answer(member.actor.place.remote()), _ANSWER_S)
                except (RayError, TimeoutError):
                    self._seen(name, member, None)
                else:
                    self._seen(name, member, place)
                    if place.stopping:  # A manager before this one let it go.
                        self.let_go(name)
            await asyncio.sleep(_LOOK_S)

    async def stop_all(self) -> None:
        """Let every worker go and wait for it."""
        for name, member in list(self._members.items()):
            if member.phase != "leaving":
                self.let_go(name)
        await asyncio.gather(*self._leaving)

    # What differs from other pools

    def workers(self, pool: PoolName) -> list[PoolWorker]:
        return [_worker(name, member) for name, member in self._members.items() if member.pool == pool]

    def check_room(self, desired: Mapping[PoolName, int]) -> None:
        for name, count in desired.items():
            if count > MOST_WORKERS:
                raise Conflict(f"{name} is to have {count} workers; {MOST_WORKERS} are the most")

    def add(self, pool: PoolName) -> None:
        settings = self._cluster.pool(pool)
        taken = {member.number for member in self._members.values() if member.pool == pool}
        worker = RayWorker(pool, smallest_not_in(taken))
        name = worker.name
        group = placement_group(
            [settings.bundle()],
            strategy="STRICT_PACK",
            name=name,
            lifetime="detached",
            bundle_label_selector=[dict(settings.labels)] if settings.labels else None,
        )
        files = {} if self._mesh is None else self._mesh.of_worker(f"{pool}/{name}")
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
        self._members[name] = _Member(pool, worker.number, actor, group)

    def let_go(self, worker_id: str) -> None:
        member = self._members[worker_id]
        member.phase = "leaving"
        task = asyncio.ensure_future(self._leave(worker_id, member))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, name: str, member: _Member) -> None:
        grace_s = self._cluster.drain_timeout_s
        try:
            await asyncio.wait_for(_answer(member.actor.stop.remote(grace_s)), grace_s + _BEYOND_DRAIN_S)
        except (RayError, TimeoutError) as error:
            log.warning("worker_left_hard", worker_id=name, error=str(error).partition("\n")[0])
        ray.kill(member.actor, no_restart=True)
        remove_placement_group(member.group)
        del self._members[name]
        self.tell()

    def _seen(self, name: str, member: _Member, place: Place | None) -> None:
        if member.phase == "leaving" or (place == member.place and (member.phase == "running") == (place is not None)):
            return
        if place is None:
            if member.phase == "running":
                log.warning("worker_lost", worker_id=name)
            member.phase = "restarting"
        else:
            member.restarts += member.place is not None and place != member.place
            member.phase, member.place = "running", place
        self.tell()


def _worker(name: str, member: _Member) -> PoolWorker:
    place = member.place
    where = "waiting for resources" if place is None else f"{place.host} ({place.node_id[:8]})"
    pid = "" if place is None or member.phase == "restarting" else f"pid {place.pid}"
    return PoolWorker(name, member.phase, where, pid, member.restarts)


async def _answer(reference: Any) -> Any:
    return await reference
