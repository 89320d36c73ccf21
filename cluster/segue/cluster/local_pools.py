"""Both pools as processes of this machine, one core or GPU each: what ``segue up`` runs and ``segue scale`` changes."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from segue.base.errors import Conflict, SettingsError
from segue.cluster.cert_files import OPERATOR, files_of
from segue.cluster.environment import Machine, share_of
from segue.cluster.local import LocalCluster, LocalWorker, process_specs, worker_spec
from segue.cluster.local_certs import check_worker_cert
from segue.cluster.pools import POOL_NAMES, Phase, PoolName, PoolWorker
from segue.cluster.ports import free_port
from segue.cluster.process import ProcessSpec
from segue.cluster.resizing import ResizablePools, Work, nobody_works, smallest_not_in
from segue.cluster.restarts import RestartPolicy
from segue.cluster.supervisor import Event, Report, Restarting, Started, Stopped, Supervised, supervise
from segue.cluster.turning import FlexWorker

MOST_WORKERS = 64
# After its drain a process still has an engine to shut down.
_BEYOND_DRAIN_S = 5.0
_ASK_AGAIN_S = 0.5


@dataclass
class _Member:
    worker: LocalWorker
    phase: Phase = "running"
    pid: int = 0
    restarts: int = 0
    turning_from: PoolName | None = None
    last_turn_s: float = 0.0
    waits: bool = False  # For the GPU of one that leaves.


class LocalPools(ResizablePools):
    """Over a supervisor, whose events it is to be told by :meth:`on_event`."""

    def __init__(self, cluster: LocalCluster, machine: Machine, work: Work) -> None:
        super().__init__("local", work)
        self._cluster = cluster
        self._machine = machine
        self._members = {worker.name: _Member(worker) for worker in cluster.workers()}
        self._supervised: Supervised | None = None
        self._turning: set[asyncio.Task[None]] = set()

    def specs(self) -> list[ProcessSpec]:
        """What to begin with, the router first."""
        return [self._fresh(spec) for spec in process_specs(self._cluster, self._machine, os.environ)]

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
                member.pid, member.restarts = 0, member.restarts + 1
                self._turned(member, ended=False)
                member.phase = "restarting"
                if self._supervised is not None:
                    self._supervised.change(self._fresh(self._spec(member.worker)))
            case Stopped():
                del self._members[event.name]
                self._start_those_that_can()
        self.tell()

    def kill_all(self) -> None:
        """SIGKILL everything, for the second signal."""
        if self._supervised is not None:
            self._supervised.kill_all()

    # What differs from other pools

    def workers(self, pool: PoolName) -> list[PoolWorker]:
        return [self._worker(member) for member in self._members.values() if member.worker.role == pool]

    def _worker(self, member: _Member) -> PoolWorker:
        share = share_of(self._machine, member.worker.share, self._cluster.device)
        return PoolWorker(
            worker_id=member.worker.name,
            phase=member.phase,
            place=f"core {share.cores[0]}" if share.gpu is None else f"gpu {share.gpu}",
            process=f"pid {member.pid}" if member.pid else "",
            restarts=member.restarts,
            flex=member.worker.flex,
            resources={"CPU" if share.gpu is None else "GPU": 1.0},
            last_turn_s=member.last_turn_s,
        )

    def check_room(self, desired: Mapping[PoolName, int]) -> None:
        if all(desired[pool.name] <= pool.desired for pool in self.view().pools):
            return  # Of a machine whose GPUs are shared workers may always go.
        wanted = sum(desired.values())
        room = len(self._machine.gpus) if self._cluster.device == "cuda" else MOST_WORKERS
        if wanted > room:
            what = "GPUs" if self._cluster.device == "cuda" else "workers at most"
            raise Conflict(f"{wanted} workers are wanted in all, and this machine has {room} {what}; ask for fewer")
        for name in POOL_NAMES:
            flexible = sum(one.worker.flex and one.worker.role == name for one in self._members.values())
            for number in range(desired[name] - flexible):
                try:
                    check_worker_cert(self._cluster, LocalWorker(name, number, 0))
                except SettingsError as error:
                    raise Conflict(str(error)) from None

    def add(self, pool: PoolName) -> None:
        # The smallest number that is free; one that still leaves keeps its own.
        members = [member.worker for member in self._members.values()]
        numbers = {worker.number for worker in members if worker.role == pool and not worker.flex}
        worker = LocalWorker(pool, smallest_not_in(numbers), self._freest_share())
        member = self._members[worker.name] = _Member(worker, "restarting", waits=True)
        if not self._starts_later(member):
            self._start(member)

    def _freest_share(self) -> int:
        """The core or GPU that the fewest workers stay on; of equals one that nobody leaves."""
        staying = Counter(self._device(one) for one in self._members.values() if one.phase != "leaving")
        left = {self._device(one) for one in self._members.values() if one.phase == "leaving"}
        return min(range(self._devices), key=lambda number: (staying[number], number in left, number))

    @property
    def _devices(self) -> int:
        return len(self._machine.gpus if self._cluster.device == "cuda" else self._machine.cores)

    def _device(self, member: _Member) -> int:
        return member.worker.share % self._devices

    def _starts_later(self, member: _Member) -> bool:
        """One that leaves has its engine's memory until it has gone; a core may be shared meanwhile."""
        return self._cluster.device == "cuda" and any(
            one.phase == "leaving" and self._device(one) == self._device(member) for one in self._members.values()
        )

    def _start_those_that_can(self) -> None:
        for member in self._members.values():
            if member.waits and not self._starts_later(member):
                self._start(member)

    def _start(self, member: _Member) -> None:
        member.waits, member.phase = False, "running"
        assert self._supervised is not None, "scaled before it was started"
        self._supervised.add(self._spec(member.worker))

    def let_go(self, worker_id: str) -> None:
        if self._members[worker_id].waits:
            del self._members[worker_id]
            return
        self._members[worker_id].phase = "leaving"
        assert self._supervised is not None, "scaled before it was started"
        self._supervised.let_go(worker_id)

    def begin_turn(self, worker_id: str, pool: PoolName) -> None:
        member = self._members[worker_id]
        member.turning_from, member.phase = member.worker.role, "turning"
        member.worker = replace(member.worker, role=pool)
        task = asyncio.create_task(self._turn(member), name=f"turn {worker_id}")
        self._turning.add(task)
        task.add_done_callback(self._turning.discard)

    async def _turn(self, member: _Member) -> None:
        worker = member.worker
        tls = None if self._cluster.certs is None else files_of(self._cluster.certs, OPERATOR)
        flex = FlexWorker(worker.name, f"127.0.0.1:{worker.port}", tls)
        ready_s = await flex.turn(worker.role, self._cluster.drain_timeout_s)
        pool = worker.role if ready_s is not None else await self._pool_of(member, flex)
        if member.turning_from is not None and member.worker is worker:  # It may have died meanwhile.
            member.last_turn_s = ready_s or member.last_turn_s
            self._turned(member, ended=pool == worker.role)
            self.tell()

    @staticmethod
    async def _pool_of(member: _Member, flex: FlexWorker) -> PoolName | None:
        """After a turn whose end nobody heard of: it may have stayed what it was, have turned, or still be about to."""
        while member.phase == "turning":
            if (pool := await flex.pool()) is not None:
                return pool
            await asyncio.sleep(_ASK_AGAIN_S)
        return None

    @staticmethod
    def _turned(member: _Member, ended: bool) -> None:
        """A turn is over; one that has not come to its end leaves the worker in its old pool."""
        if member.turning_from is not None and not ended:
            member.worker = replace(member.worker, role=member.turning_from)
        member.turning_from = None
        member.phase = "running" if member.phase == "turning" else member.phase

    def _spec(self, worker: LocalWorker) -> ProcessSpec:
        return worker_spec(self._cluster, worker, self._machine, os.environ)

    def _fresh(self, spec: ProcessSpec) -> ProcessSpec:
        """With a port of its own for each life of a flex worker: where it will be told to turn."""
        member = self._members.get(spec.name)
        if member is None or not member.worker.flex:
            return spec
        member.worker = replace(member.worker, port=free_port("127.0.0.1"))
        return self._spec(member.worker)


@asynccontextmanager
async def run_local(
    cluster: LocalCluster, machine: Machine, policy: RestartPolicy, report: Report, work: Work = nobody_works
) -> AsyncIterator[LocalPools]:
    """Run the cluster while the block runs; see :func:`segue.cluster.supervisor.supervise`."""
    pools = LocalPools(cluster, machine, work)

    def tell(event: Event) -> None:
        pools.on_event(event)
        report(event)

    async with supervise(pools.specs(), policy, tell, cluster.drain_timeout_s + _BEYOND_DRAIN_S) as supervised:
        pools.supervise_by(supervised)
        yield pools
