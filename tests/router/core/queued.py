"""Requests to queue, and the room that a queue is told of."""

from __future__ import annotations

from segue.router.queueing.queue import AdmissionQueue
from segue.router.queueing.slo import SloClass
from segue.router.queueing.waiting import Room, Rooms, Waiting

ALL = Room(short=True, long=True)
OPEN = Rooms(ALL, ALL)

UNHURRIED = SloClass("unhurried", ttft_s=1e6)


def waiting(
    request_id: str,
    slo_class: SloClass = UNHURRIED,
    *,
    at_s: float = 0.0,
    tenant: str = "",
    priority: int = 0,
    tokens: int = 100,
    long: bool = False,
    n: int = 1,
) -> Waiting:
    due_s = at_s + (slo_class.ttft_s if slo_class.interactive else slo_class.yield_s)
    return Waiting(request_id, slo_class, tenant, priority, tokens, tokens, n, float(n), long, due_s, due_s)


def drain(queue: AdmissionQueue, now_s: float = 0.0, rooms: Rooms = OPEN) -> list[str]:
    started = []
    while (one := queue.next(now_s, rooms)) is not None:
        started.append(one.request_id)
    return started
