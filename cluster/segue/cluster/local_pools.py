"""Both pools as processes of this machine, one core or GPU each: what ``segue up`` runs and ``segue scale`` changes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from segue.base.errors import Conflict, InvalidRequest, NotFound, SettingsError
from segue.cluster.environment import Machine, share_of
from segue.cluster.local import LocalCluster, LocalWorker, check_worker_cert, process_specs, worker_spec
from segue.cluster.pools import POOL_NAMES, Phase, PoolName, PoolsView, PoolView, PoolWorker, victims
from segue.cluster.restarts import RestartPolicy
from segue.cluster.supervisor import Event, Report, Restarting, Started, Stopped, Supervised, supervise

# By worker id, how much each has to do, in any unit.
Work = Callable[[], Awaitable[Mapping[str, float]]]

MOST_WORKERS = 64
# After its drain a process still has an engine to shut down.
_BEYOND_DRAIN_S = 5.0


async def nobody_works() -> Mapping[str, float]:
    """Where nothing is known of loads, the youngest workers go."""
    return {}


@dataclass
class _Member:
    worker: LocalWorker
    phase: Phase = "running"
    pid: int = 0
    restarts: int = 0


class LocalPools:
    """A :class:`~segue.cluster.pools.Pools` over a supervisor, whose events it is to be told by :meth:`on_event`.

    ``work`` says which workers have the least to do when some must go.
    """

    def __init__(self, cluster: LocalCluster, machine: Machine, work: Work) -> None:
        self._cluster = cluster
        self._machine = machine
        self._work = work
        self._members = {worker.name: _Member(worker) for worker in cluster.workers()}
        self._desired: dict[PoolName, int] = {"prefill": cluster.prefill.workers, "decode": cluster.decode.workers}
        self._supervised: Supervised | None = None
        self._changed = asyncio.Event()
        self._scaling = asyncio.Lock()

    def supervise_by(self, supervised: Supervised) -> None:
        """What starts and ends the processes from now on."""
        self._supervised = supervised

    def on_event(self, event: Event) -> None:
        member = self._members.get(event.name)
        if member is None:  # The router.
            return
        match event:
            case Started(pid=pid):
                member.pid = pid
                member.phase = "running" if member.phase == "restarting" else member.phase
            case Restarting():
                member.pid, member.phase = 0, "restarting"
                member.restarts += 1
            case Stopped():
                del self._members[event.name]
        self._tell()

    # Pools

    def view(self) -> PoolsView:
        return PoolsView("local", tuple(self._pool(name) for name in POOL_NAMES))

    async def scale(self, desired: Mapping[PoolName, int]) -> None:
        for name, workers in desired.items():
            if workers < 1:
                raise InvalidRequest(f"{name} is to have {workers} workers; a pool has at least 1", param=name)
        async with self._scaling:
            self._check_room({**self._desired, **desired})
            work = await self._work()
            self._desired.update(desired)
            for name, workers in desired.items():
                self._resize(name, workers, work)
            self._tell()

    async def drain(self, worker_id: str) -> None:
        async with self._scaling:
            member = self._members.get(worker_id)
            if member is None or member.phase == "leaving":
                known = ", ".join(self._members) or "none"
                raise NotFound(f"there is no worker {worker_id!r} that could leave; workers: {known}")
            pool = member.worker.role
            if self._desired[pool] == 1:
                raise Conflict(f"{worker_id} is the last {pool} worker; scale {pool} to 2 first, then drain it")
            self._desired[pool] -= 1
            self._let_go(worker_id)
            self._tell()

    async def watch(self) -> AsyncIterator[PoolsView]:
        while True:
            changed = self._changed
            yield self.view()
            await changed.wait()

    def kill_all(self) -> None:
        """SIGKILL everything, for the second signal."""
        if self._supervised is not None:
            self._supervised.kill_all()

    # Inside

    def _pool(self, name: PoolName) -> PoolView:
        members = [member for member in self._members.values() if member.worker.role == name]
        return PoolView(name, self._desired[name], tuple(self._worker(member) for member in members))

    def _worker(self, member: _Member) -> PoolWorker:
        share = share_of(self._machine, member.worker.share, self._cluster.device)
        return PoolWorker(
            worker_id=member.worker.name,
            phase=member.phase,
            place=f"core {share.core}" if share.gpu is None else f"gpu {share.gpu}",
            process=f"pid {member.pid}" if member.pid else "",
            restarts=member.restarts,
        )

    def _check_room(self, desired: Mapping[PoolName, int]) -> None:
        wanted = sum(desired.values())
        room = len(self._machine.gpus) if self._cluster.device == "cuda" else MOST_WORKERS
        if wanted > room:
            what = "GPUs" if self._cluster.device == "cuda" else "workers at most"
            raise Conflict(f"{wanted} workers are wanted in all, and this machine has {room} {what}; ask for fewer")
        for name in POOL_NAMES:
            for number in range(desired[name]):
                try:
                    check_worker_cert(self._cluster, LocalWorker(name, number, 0))
                except SettingsError as error:
                    raise Conflict(str(error)) from None

    def _resize(self, pool: PoolName, desired: int, work: Mapping[str, float]) -> None:
        staying = [worker for worker in self._pool(pool).workers if worker.phase != "leaving"]
        for name in victims(staying, len(staying) - desired, work):
            self._let_go(name)
        for _ in range(desired - len(staying)):
            self._add(pool)

    def _add(self, pool: PoolName) -> None:
        # The smallest number that is free; one that still leaves keeps its own.
        numbers = {member.worker.number for member in self._members.values() if member.worker.role == pool}
        shares = {member.worker.share for member in self._members.values()}
        worker = LocalWorker(pool, _smallest_not_in(numbers), _smallest_not_in(shares))
        self._members[worker.name] = _Member(worker)
        assert self._supervised is not None, "scaled before it was started"
        self._supervised.add(worker_spec(self._cluster, worker, self._machine, os.environ))

    def _let_go(self, name: str) -> None:
        self._members[name].phase = "leaving"
        assert self._supervised is not None, "scaled before it was started"
        self._supervised.let_go(name)

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _smallest_not_in(taken: set[int]) -> int:
    return next(number for number in range(len(taken) + 1) if number not in taken)


@asynccontextmanager
async def run_local(
    cluster: LocalCluster, machine: Machine, policy: RestartPolicy, report: Report, work: Work = nobody_works
) -> AsyncIterator[LocalPools]:
    """Run the cluster while the block runs; see :func:`segue.cluster.supervisor.supervise`."""
    pools = LocalPools(cluster, machine, work)

    def tell(event: Event) -> None:
        pools.on_event(event)
        report(event)

    specs = process_specs(cluster, machine, os.environ)
    async with supervise(specs, policy, tell, cluster.drain_timeout_s + _BEYOND_DRAIN_S) as supervised:
        pools.supervise_by(supervised)
        yield pools
