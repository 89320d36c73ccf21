"""Making a pool smaller without losing anything: who leaves, when it has left, and how far the Deployment may go down.

A worker leaves in four steps, each of which is read back from the cluster before the next, so that an operator that is
restarted in between goes on where it was:

    stays --mark--> marked --tell--> drains --empty, or its time is up--> Deployment one smaller --> deleted

*Marked* is two annotations on its pod: since when it leaves, and the deletion cost by which Kubernetes chooses it.
Kubernetes deletes pods that aren't ready before all others, whatever they cost; so those are chosen first here, too.
A worker that has drained exits and would be started again by its kubelet: that it was started after it was marked
shows that it is empty as well as its own word does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# For a worker to be told, and to be seen to be empty, on top of what its drain may take.
_MARGIN_S = 10.0
# Whoever names a worker makes its pool smaller next; a name that no shrink has followed by then is of a refused one.
_NAMED_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What a worker says of itself. ``offers`` are tickets whose KV blocks it still holds."""

    requests: int = 0
    offers: int = 0
    waiting_tokens: int = 0
    draining: bool = False

    @property
    def empty(self) -> bool:
        return self.draining and self.requests == 0 and self.offers == 0


@dataclass(frozen=True, slots=True)
class Worker:
    """One pod of a pool that isn't being deleted.

    ``started_s`` is when its container began to run, None while it doesn't; ``load`` None if it doesn't answer.
    ``leaving_since_s`` is its mark. ``named_since_s``: since when somebody wants this very worker to leave.
    """

    pod: str
    ip: str = ""
    ready: bool = False
    started_s: float | None = None
    restarts: int = 0
    leaving_since_s: float | None = None
    named_since_s: float | None = None
    load: Load | None = None
    node: str = ""

    @property
    def leaving(self) -> bool:
        return self.leaving_since_s is not None

    @property
    def named(self) -> bool:
        return self.named_since_s is not None


@dataclass(frozen=True, slots=True)
class PoolSize:
    """A pool as it is. ``replicas`` is the Deployment's; ``rolling``: it is replacing its pods by newer ones."""

    desired: int
    replicas: int
    workers: Sequence[Worker]
    drain_timeout_s: float
    rolling: bool = False


@dataclass(frozen=True, slots=True)
class Resize:
    """What to do now, by pods' names. ``replicas`` is what the Deployment should have at once; ``timed_out`` are those
    that leave although they still have something."""

    replicas: int
    mark: tuple[str, ...] = ()
    recall: tuple[str, ...] = ()
    tell: tuple[str, ...] = ()
    timed_out: tuple[str, ...] = ()
    settled: bool = True


def resize(pool: PoolSize, now_s: float) -> Resize:
    """One look at a pool."""
    surplus = max(0, len(pool.workers) - pool.desired)
    leaving = [worker for worker in pool.workers if worker.leaving]
    gone = [worker for worker in leaving if _has_left(worker) or _timed_out(worker, pool, now_s)]
    recalled = _recalled(leaving, gone, len(leaving) - surplus)
    shrinking = pool.desired < pool.replicas and not pool.rolling
    marked = chosen(pool.workers, surplus - len(leaving)) if shrinking else ()
    replicas = pool.replicas
    if pool.desired >= pool.replicas:
        replicas = pool.desired
    elif shrinking:
        # Marks are counted only once they have been read back: without them Kubernetes might choose another pod.
        left = len(gone) - sum(worker.pod in recalled for worker in gone)
        replicas = max(pool.desired, min(pool.replicas, len(pool.workers) - left))
    return Resize(
        replicas=replicas,
        mark=marked,
        recall=recalled if surplus else (*recalled, *_named_in_vain(pool, now_s)),
        tell=tuple(
            worker.pod
            for worker in leaving
            if worker.pod not in recalled and worker not in gone and not _draining(worker)
        ),
        timed_out=tuple(worker.pod for worker in gone if not _has_left(worker)),
        settled=not leaving and not marked and len(pool.workers) == replicas == pool.desired,
    )


def _has_left(worker: Worker) -> bool:
    """Whether nothing is lost if the pod of a marked worker goes."""
    assert worker.leaving_since_s is not None
    if worker.started_s is None:  # Not running: it has never begun, or has ended.
        return True
    if worker.started_s > worker.leaving_since_s:
        return True
    return worker.load is not None and worker.load.empty


def _timed_out(worker: Worker, pool: PoolSize, now_s: float) -> bool:
    assert worker.leaving_since_s is not None
    return now_s - worker.leaving_since_s > pool.drain_timeout_s + _MARGIN_S


def _draining(worker: Worker) -> bool:
    return worker.load is not None and worker.load.draining


def _recalled(leaving: Sequence[Worker], gone: Sequence[Worker], count: int) -> tuple[str, ...]:
    """Who may stay after all: those that have most to do. One that drains already goes on draining, exits, and is
    started again by its kubelet."""
    order = sorted(leaving, key=lambda worker: (worker in gone, _draining(worker), -work(worker), worker.pod))
    return tuple(worker.pod for worker in order[: max(0, count)])


def _named_in_vain(pool: PoolSize, now_s: float) -> tuple[str, ...]:
    """In a pool that has nobody to spare."""
    return tuple(
        worker.pod
        for worker in pool.workers
        if worker.named_since_s is not None and not worker.leaving and now_s - worker.named_since_s > _NAMED_S
    )


def chosen(workers: Sequence[Worker], count: int) -> tuple[str, ...]:
    """Who is to leave: who was named, then who isn't ready, then who has the least to do, the youngest of equals."""
    order = sorted(
        (worker for worker in workers if not worker.leaving),
        key=lambda worker: (
            not worker.named,
            worker.ready,
            work(worker),
            -(worker.started_s or math.inf),
            worker.pod,
        ),
    )
    return tuple(worker.pod for worker in order[: max(0, count)])


def work(worker: Worker) -> float:
    """How much a worker has to do, by requests; one that serves and doesn't say may have any number."""
    if worker.load is None:
        return math.inf if worker.ready else 0.0
    return worker.load.requests + worker.load.offers
