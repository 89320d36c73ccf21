"""What a pool of workers is, wherever it runs: so many workers that can be listed, added, and let go."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, get_args

PoolName = Literal["prefill", "decode"]
POOL_NAMES: tuple[PoolName, ...] = get_args(PoolName)
Phase = Literal["running", "leaving", "restarting", "turning"]


@dataclass(frozen=True, slots=True)
class PoolWorker:
    """One worker as its pool sees it. Whether it is ready its router knows, not its pool.

    ``place`` is what it runs on ("core 1", a node's name); ``process`` what it is there ("pid 4711"), empty while none
    runs. A ``flex`` worker may turn to the other pool; one that is turning counts for the pool that it turns to.
    ``address`` (host:port) and ``epoch`` are as it has registered with routers, empty until it has. ``resources`` are
    what it has to itself, by the names of where it runs: ``{"CPU": 1.0}``, ``{"GPU": 0.5}``. ``last_turn_s`` is how
    long its last turn took until it was ready; 0: it has not turned.
    """

    worker_id: str
    phase: Phase
    place: str
    process: str = ""
    restarts: int = 0
    flex: bool = False
    address: str = ""
    epoch: str = ""
    resources: Mapping[str, float] = field(default_factory=dict, hash=False)
    last_turn_s: float = 0.0


@dataclass(frozen=True, slots=True)
class PoolView:
    """``workers`` has those that leave, too; they don't count towards ``desired``.

    ``recommended`` is how many the scaling policy decided last that there should be, and ``reason`` why; None: it
    hasn't.
    """

    name: PoolName
    desired: int
    workers: tuple[PoolWorker, ...]
    recommended: int | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PoolsView:
    """Both pools at one moment. ``scaling_mode`` is who decides how many there are: as in pools.proto."""

    backend: str
    pools: tuple[PoolView, ...]
    scaling_mode: str = ""

    def of(self, name: PoolName) -> PoolView:
        return next(pool for pool in self.pools if pool.name == name)


class Pools(Protocol):
    """Both pools of one cluster."""

    def view(self) -> PoolsView:
        """As they are now."""

    async def scale(self, desired: Mapping[PoolName, int]) -> None:
        """Start or let go workers until each pool has so many; returns when that has begun.

        Workers that are let go drain first. Those with the least work go.

        Raises:
            InvalidRequest: a pool of less than one worker.
            Conflict: there is no room for so many, or somebody else scales the pool.
        """

    async def drain(self, worker_id: str) -> None:
        """Let one worker go; its pool becomes one smaller.

        Raises:
            NotFound: no such worker.
            Conflict: it is the last one of its pool.
        """

    async def turn(self, worker_id: str, pool: PoolName) -> None:
        """Have a flex worker change to ``pool`` without loading its model again; returns when that has begun.

        It counts for its new pool at once. One that doesn't get empty in time is back in its old pool, having lost
        nothing. A worker that is in ``pool`` already is left alone.

        Raises:
            NotFound: no such worker.
            Conflict: it is not flex, it is the last one of its pool, or it turns or restarts just now.
        """

    def watch(self) -> AsyncIterator[PoolsView]:
        """The view now and after each change; a slow reader misses views in between, never the last one."""


def victims(workers: Sequence[PoolWorker], count: int, work: Mapping[str, float]) -> list[str]:
    """Which workers of a pool leave: those with the least work, the youngest of equals (the highest number). Those that
    could turn to the other pool stay as long as there are others.

    ``work`` is by worker id, in any unit; a worker that nothing is known of has none. Workers that leave already don't
    count.
    """
    staying = [worker for worker in workers if worker.phase != "leaving"]
    order = sorted(
        range(len(staying)),
        # One that has died and waits for its next life serves nobody: it goes first.
        key=lambda index: (
            staying[index].phase != "restarting",
            staying[index].flex,
            work.get(staying[index].worker_id, 0.0),
            -index,
        ),
    )
    return [staying[index].worker_id for index in order[: max(0, count)]]


def turner(workers: Sequence[PoolWorker], work: Mapping[str, float]) -> str | None:
    """Which worker of a pool is to turn to the other one: the flex worker with the least work, which is empty first;
    the youngest of equals. None: there is none that runs.

    ``work`` is as for :func:`victims`.
    """
    flex = [index for index, worker in enumerate(workers) if worker.flex and worker.phase == "running"]
    chosen = min(flex, key=lambda index: (work.get(workers[index].worker_id, 0.0), -index), default=None)
    return None if chosen is None else workers[chosen].worker_id
