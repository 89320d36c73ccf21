"""The workers that are attached, and the fleet as they make it up."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import replace

from segue.proto.worker_pb2 import ROLE_PREFILL
from segue.router.rates.crowding import CrowdingMeter
from segue.router.rates.pooled_rates import Kind, pool_rates
from segue.router.rates.transfers import TransferMeter
from segue.router.rates.worker_rates import Rates
from segue.router.workers.circuits import Circuits
from segue.router.workers.fleet import FleetSnapshot, WorkerView
from segue.router.workers.link import WorkerLink

_POOL_EVERY_S = 0.25


class WorkerLinks:
    """The attached workers by id, and the circuit breakers of those that have failed lately."""

    def __init__(self) -> None:
        self.circuits = Circuits()
        self.transfers = TransferMeter()
        self.crowding = CrowdingMeter()
        self._usual: dict[Kind, Rates] = {}
        self._spared: set[str] = set()
        self._views: dict[str, WorkerView] = {}
        self._last = FleetSnapshot(())
        self._pooled_s = -_POOL_EVERY_S
        self._links: dict[str, WorkerLink] = {}

    def __iter__(self) -> Iterator[WorkerLink]:
        return iter(self._links.values())

    def get(self, worker_id: str) -> WorkerLink | None:
        return self._links.get(worker_id)

    def add(self, link: WorkerLink) -> None:
        self._links[link.worker_id] = link
        link.changed = True

    def remove(self, link: WorkerLink) -> bool:
        """Forget a link; False if another one has taken its place."""
        if self._links.get(link.worker_id) is not link:
            return False
        del self._links[link.worker_id]
        self._views.pop(link.worker_id, None)
        self._spared.discard(link.worker_id)
        self.crowding.forget(link.worker_id)
        self._last = FleetSnapshot(tuple(self._views.values()))
        return True

    def snapshot(self) -> FleetSnapshot:
        """The fleet now. Each request asks several times, in a fleet of hundreds: only those workers are looked at that
        may have changed since the last time."""
        now_s = time.monotonic()
        if now_s - self._pooled_s >= _POOL_EVERY_S:
            self._pooled_s = now_s
            self._usual = self._pool(now_s)
            doubtful = list(self)
        else:
            timed = self._spared.union(self.circuits.workers)  # Breakers close with time alone.
            doubtful = [link for link in self if link.changed or link.worker_id in timed]
        last = self._last
        views = tuple(self._views.values()) if self._look_at(doubtful, now_s) else last.workers
        self._last = FleetSnapshot(views, self.transfers.links, now_s)
        if views is last.workers:
            self._last.know(last)
        return self._last

    def _pool(self, now_s: float) -> dict[Kind, Rates]:
        """What is usual of each kind."""
        since_s = [link.meter.busy_since_s for link in self if link.register.role == ROLE_PREFILL]
        self.crowding.look(now_s, filter(None, since_s))
        usual = pool_rates((link.kind, link.meter.rates) for link in self if link.ready)
        return {kind: replace(each, crowding=self.crowding.crowding(kind, now_s)) for kind, each in usual.items()}

    def _look_at(self, links: Iterable[WorkerLink], now_s: float) -> bool:
        """Whether any view is another one than before."""
        another = False
        for link in links:
            name = link.worker_id
            spared = self.circuits.spares(name, link.assigned_requests, now_s)
            view = link.view(spared, self._usual.get(link.kind) or link.meter.rates)
            link.changed = False
            if self._views.get(name) is not view:
                self._views[name] = view
                another = True
            (self._spared.add if spared else self._spared.discard)(name)
        return another
