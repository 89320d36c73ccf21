"""What a worker process tells operators: metrics on a port of its own, and spans."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from segue.base.logging import get_logger
from segue.base.loop_lag import watch_loop_lag
from segue.base.metrics import Exposition
from segue.base.metrics_http import MetricsServer
from segue.base.tracing import Tracing, TracingSettings, open_tracing
from segue.engine.protocol import Engine
from segue.proto.worker_pb2 import Role, WorkerState
from segue.worker.leg_spans import LegSpans
from segue.worker.metrics.by_role import CountersByRole
from segue.worker.metrics.counting import WorkerMetrics
from segue.worker.metrics.readings import read_worker
from segue.worker.observer import WorkerObserver, WorkerObservers
from segue.worker.runtime import WorkerRuntime
from segue.worker.settings import WorkerSettings

log = get_logger("worker")


class WorkerTelemetry:
    """Observes the runtime, if anybody is to be told."""

    def __init__(self, settings: WorkerSettings, runtime: WorkerRuntime, engine: Engine) -> None:
        self._settings = settings
        self._runtime = runtime
        self._engine = engine
        self._server: MetricsServer | None = None
        self._tracing: Tracing | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Listen for metrics and send spans, as told. Raises SettingsError."""
        settings, runtime = self._settings, self._runtime
        observers: list[WorkerObserver] = []
        if settings.otlp_endpoint:
            role = Role.Name(runtime.register.role).removeprefix("ROLE_").lower()
            traced = TracingSettings(settings.otlp_endpoint)
            self._tracing = open_tracing(traced, f"segue-{role}-worker", settings.worker_id)
            observers.append(LegSpans(self._tracing, role, settings.worker_id))
        if settings.metrics_port is not None:
            observers += await self._start_metrics(tasks, settings.metrics_port)
        if observers:
            runtime.observer = WorkerObservers(*observers)

    async def _start_metrics(self, tasks: asyncio.TaskGroup, metrics_port: int) -> Sequence[WorkerObserver]:
        settings, runtime, engine = self._settings, self._runtime, self._engine
        exposition = Exposition()
        metrics = WorkerMetrics(exposition, runtime.register)
        counted = CountersByRole(runtime.register, engine.counters)
        exposition.read(lambda: read_worker(runtime, engine, counted))
        self._server = MetricsServer(exposition, ready=lambda: runtime.status.state == WorkerState.WORKER_STATE_READY)
        port = await self._server.start(settings.metrics_host, metrics_port)
        log.info("metrics", host=settings.metrics_host, port=port, worker_id=settings.worker_id)
        self._watching = tasks.create_task(watch_loop_lag(metrics.on_lag), name="loop lag")
        return metrics, counted

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self._server is not None:
            await self._server.stop()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.stop)
