"""How late an event loop is: what every token, every new request and every lease waits on top."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import NamedTuple

from segue.base.metrics import Metric

INTERVAL_S = 0.25

LOOP_LAG = Metric(
    "segue_event_loop_lag_seconds",
    "histogram",
    "How late the process's event loop was, sampled four times a second.",
    (),
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)
LOOP_LAG_OWN = Metric(
    "segue_event_loop_own_lag_seconds",
    "histogram",
    "Of that, what the loop's own work took; the rest is a machine that is busy otherwise.",
    (),
    LOOP_LAG.buckets,
)


class Lag(NamedTuple):
    """``own_s`` of ``seconds`` the loop's own work took; for the rest something else had the processor."""

    seconds: float
    own_s: float


async def watch_loop_lag(observe: Callable[[Lag], None], interval_s: float = INTERVAL_S) -> None:
    """Sleep, and tell by how much waking was late, again and again. Never returns."""
    now_s = asyncio.get_running_loop().time
    while True:
        began_s, worked_s = now_s(), time.thread_time()
        await asyncio.sleep(interval_s)
        observe(lag_of(interval_s, now_s() - began_s, time.thread_time() - worked_s))


def lag_of(interval_s: float, slept_s: float, worked_s: float) -> Lag:
    """Of a sleep that was to take ``interval_s``, during which the loop's thread had the processor for ``worked_s``.

    When in that time it worked isn't known, so it counts evenly: a loop that is busy throughout worked just as long
    while it was late as its lateness costs in its own seconds, however slowly the machine grants them. A loop that is
    idle and isn't woken for want of a processor has worked next to nothing.
    """
    late_s = max(0.0, slept_s - interval_s)
    return Lag(late_s, late_s * min(1.0, worked_s / slept_s) if slept_s > 0 else 0.0)
