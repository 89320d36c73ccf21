"""How long a worker takes to start, as seen: from when a pool had it until it was ready for work."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from segue.cluster.scaling.readings import WorkerReading

_REMEMBERED = 5


@dataclass(frozen=True, slots=True)
class Starts:
    """``waiting`` are workers that start, by worker id and since when; ``known`` those of which nothing more is to be
    learnt; ``looked_s`` is the last look, None before the first; ``lasted_s`` what the last few starts took, newest
    last."""

    waiting: tuple[tuple[str, float], ...] = ()
    known: frozenset[str] = frozenset()
    looked_s: float | None = None
    lasted_s: tuple[float, ...] = ()

    def start_s(self, otherwise_s: float) -> float:
        """The median of the last few, so that one that pulled its image first doesn't count for all."""
        return median(self.lasted_s) if self.lasted_s else otherwise_s


def watched(starts: Starts, workers: Iterable[WorkerReading], now_s: float) -> Starts:
    """After one more look. A worker that is seen for the first time was asked for at the look before. One that was
    there at the first look, or was ready before it can have been asked for, or turns or comes back after it was ready,
    tells nothing: since when it starts is not known, or it has less to load."""
    workers = list(workers)
    if starts.looked_s is None:
        return Starts(known=frozenset(worker.worker_id for worker in workers), looked_s=now_s)
    since = dict(starts.waiting)
    waiting: dict[str, float] = {}
    known, lasted = set[str](), list(starts.lasted_s)
    for worker in workers:
        name = worker.worker_id
        if name in starts.known or worker.phase == "draining":
            known.add(name)
        elif worker.phase == "starting":
            waiting[name] = since.get(name, starts.looked_s)
        else:
            known.add(name)
            took_s = now_s - worker.ready_for_s - since.get(name, starts.looked_s)
            if took_s >= 0:
                lasted.append(took_s)
    return Starts(tuple(waiting.items()), frozenset(known), now_s, tuple(lasted[-_REMEMBERED:]))
