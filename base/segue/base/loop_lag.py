"""How late an event loop is: what every token, every new request and every lease waits on top."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from segue.base.metrics import Metric

INTERVAL_S = 0.25

LOOP_LAG = Metric(
    "segue_event_loop_lag_seconds",
    "histogram",
    "How late the process's event loop was, sampled four times a second.",
    (),
    (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0),
)


async def watch_loop_lag(observe: Callable[[float], None], interval_s: float = INTERVAL_S) -> None:
    """Sleep, and tell by how many seconds waking was late, again and again. Never returns."""
    now_s = asyncio.get_running_loop().time
    while True:
        due_s = now_s() + interval_s
        await asyncio.sleep(interval_s)
        observe(max(0.0, now_s() - due_s))
