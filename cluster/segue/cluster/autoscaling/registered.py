"""Workers as their pools know them, with what they told routers when they registered. No I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from segue.cluster.autoscaling.fleet_readings import Look
from segue.cluster.pools import PoolsView, PoolWorker

# Where a worker's own server is, and this life of its engine.
Registration = tuple[str, str]


def registrations(looks: Iterable[Look]) -> dict[str, Registration]:
    """By worker id. Where routers differ, as for a moment after a restart, what was heard last counts."""
    heard = sorted(looks, key=lambda look: look.heard_s)
    return {one.worker_id: (one.address, one.epoch) for look in heard for one in look.state.workers}


def registered(view: PoolsView, known: Mapping[str, Registration]) -> PoolsView:
    """The same pools. A worker that has died has neither address nor epoch until its next life has registered."""
    pools = (replace(pool, workers=tuple(_registered(one, known) for one in pool.workers)) for pool in view.pools)
    return replace(view, pools=tuple(pools))


def _registered(worker: PoolWorker, known: Mapping[str, Registration]) -> PoolWorker:
    if worker.phase == "restarting" or worker.worker_id not in known:
        return worker
    address, epoch = known[worker.worker_id]
    return replace(worker, address=address, epoch=epoch)
