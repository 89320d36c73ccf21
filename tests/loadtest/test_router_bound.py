"""A router at its limit is told from one on a busy machine: from a real event loop to the verdict.

Work is measured in the thread's own processor seconds, so that the verdict is the same however slowly a machine grants
them. The processor that the whole process had, which a busy machine keeps down, is left out of the pages.
"""

from __future__ import annotations

import asyncio
import time

from prometheus_client import CollectorRegistry, generate_latest

from segue.base.loop_lag import Lag, watch_loop_lag
from segue.base.metrics import Exposition
from segue.loadtest.diagnose.from_metrics import evidence_of_metrics
from segue.loadtest.diagnose.scrape import Scrape, Window
from segue.loadtest.diagnose.verdict import Bound, Diagnosis, diagnose
from segue.loadtest.measure.slo import Slo
from segue.router.metrics import catalogue
from segue.router.metrics.observer import RouterMetrics
from segue.router.queueing.slo import DEFAULT_CLASSES

_SAMPLES = 12


def _work(cpu_s: float) -> None:
    end_s = time.thread_time() + cpu_s
    while time.thread_time() < end_s:
        pass


async def _diagnosed(requests: int, cpu_s: float) -> Diagnosis:
    """Of a loop in which so many requests at a time each take it so long, as tokenising a long prompt does."""
    exposition, registry = Exposition(), CollectorRegistry()
    metrics, lags = RouterMetrics(exposition, DEFAULT_CLASSES), [0]
    exposition.read(lambda: {catalogue.ROUTER_INFO: {("router-0", "0", "tiny"): 1.0}})
    registry.register(exposition)

    def look() -> Scrape:
        return Scrape.parse(generate_latest(registry).decode(), time.monotonic())

    async def ask() -> None:
        while True:
            _work(cpu_s)
            await asyncio.sleep(0 if requests > 1 else 0.1)

    def on_lag(lag: Lag) -> None:
        metrics.on_lag(lag)
        lags[0] += 1

    before = look()
    tasks = [asyncio.create_task(watch_loop_lag(on_lag, 0.02)), *(asyncio.create_task(ask()) for _ in range(requests))]
    while lags[0] < _SAMPLES:
        await asyncio.sleep(0.01)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return diagnose(evidence_of_metrics(Window(before, look()), "the test", Slo(0.5, 0.03)))


async def test_a_loop_that_is_never_idle_is_the_bound() -> None:
    diagnosis = await _diagnosed(requests=12, cpu_s=0.01)
    assert diagnosis.bound is Bound.ROUTER
    assert "by its own work" in diagnosis.summary
    assert any("--processes" in advice for advice in diagnosis.findings[0].advice)


async def test_a_loop_that_has_little_to_do_is_not_however_busy_its_machine() -> None:
    assert (await _diagnosed(requests=1, cpu_s=0.001)).bound is not Bound.ROUTER
