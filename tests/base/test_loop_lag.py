"""How late an event loop is, and by whose doing."""

from __future__ import annotations

import asyncio
import time

import pytest

from segue.base.loop_lag import Lag, lag_of, watch_loop_lag


@pytest.mark.parametrize(
    ("slept_s", "worked_s", "lag"),
    [
        (0.25, 0.01, Lag(0.0, 0.0)),
        (0.24, 0.24, Lag(0.0, 0.0)),  # Clocks are coarse.
        (0.50, 0.50, Lag(0.25, 0.25)),  # Busy throughout.
        (1.00, 0.20, Lag(0.75, 0.15)),  # Busy throughout, with a fifth of a processor.
        (1.00, 0.0, Lag(0.75, 0.0)),  # Idle, and not woken.
        (1.00, 1.20, Lag(0.75, 0.75)),
    ],
)
def test_a_loop_is_late_by_its_own_work_or_by_the_machines(slept_s: float, worked_s: float, lag: Lag) -> None:
    assert lag_of(0.25, slept_s, worked_s) == pytest.approx(lag)


async def test_a_loop_that_works_is_told_to_be_late_by_it() -> None:
    lags: list[Lag] = []
    watching = asyncio.create_task(watch_loop_lag(lags.append, interval_s=0.01))
    await asyncio.sleep(0)
    end_s = time.thread_time() + 0.1
    while time.thread_time() < end_s:
        pass
    while not lags:
        await asyncio.sleep(0.01)
    watching.cancel()
    late = lags[0]
    assert late.own_s == pytest.approx(0.09, abs=0.02)
    assert late.seconds >= late.own_s
