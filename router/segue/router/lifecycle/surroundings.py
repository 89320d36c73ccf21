"""What the core is given by whoever makes the process, beside workers and requests."""

from __future__ import annotations

from dataclasses import dataclass, field

from segue.base.tracing import Tracing
from segue.router.accounting.prices import PriceTable
from segue.router.lifecycle.placement import Placement
from segue.router.lifecycle.records import RouterObserver


@dataclass(slots=True)
class Surroundings:
    """To be set before requests come."""

    placement: Placement
    observer: RouterObserver = field(default_factory=RouterObserver)
    prices: PriceTable | None = None
    tracing: Tracing | None = None
