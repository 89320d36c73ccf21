"""What a worker process tells operators: metrics on a port of its own."""

from __future__ import annotations

import asyncio

from segue.base.logging import get_logger
from segue.base.loop_lag import watch_loop_lag
from segue.base.metrics import Exposition
from segue.base.metrics_http import MetricsServer
from segue.engine.protocol import Engine
from segue.proto.worker_pb2 import WorkerState
from segue.worker.metrics.counting import WorkerMetrics
from segue.worker.metrics.readings import read_worker
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
        self._watching: asyncio.Task[None] | None = None

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """Listen for metrics, if told to. Raises SettingsError."""
        settings, runtime, engine = self._settings, self._runtime, self._engine
        if settings.metrics_port is None:
            return
        exposition = Exposition()
        metrics = runtime.observer = WorkerMetrics(exposition, runtime.register)
        exposition.read(lambda: read_worker(runtime, engine))
        self._server = MetricsServer(exposition, ready=lambda: runtime.status.state == WorkerState.WORKER_STATE_READY)
        port = await self._server.start(settings.metrics_host, settings.metrics_port)
        log.info("metrics", host=settings.metrics_host, port=port, worker_id=settings.worker_id)
        self._watching = tasks.create_task(watch_loop_lag(metrics.loop_lag.at().observe), name="loop lag")

    async def stop(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
        if self._server is not None:
            await self._server.stop()
