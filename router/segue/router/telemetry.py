"""What a router process tells operators: metrics, and how late its event loop is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import metadata

from aiohttp import web

from segue.base.logging import get_logger
from segue.base.loop_lag import watch_loop_lag
from segue.base.metrics import Exposition, Metric, Reading
from segue.base.metrics_http import PATH, MetricsServer, metrics_handler
from segue.router.dispatcher import Dispatcher
from segue.router.metrics import catalogue
from segue.router.metrics.fleet_gauges import read_fleet
from segue.router.metrics.observer import RouterMetrics
from segue.router.records import Observers
from segue.router.settings import RouterSettings
from segue.router.slo import DEFAULT_CLASSES
from segue.router.worker_links import WorkerLinks

log = get_logger("router")

VERSION = metadata.version("segue")


class Telemetry:
    """Observes the dispatcher, beside whoever does already."""

    def __init__(self, settings: RouterSettings, links: WorkerLinks, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._links = links
        self._dispatcher = dispatcher
        self._server: MetricsServer | None = None
        self.exposition = Exposition()
        self.metrics = RouterMetrics(self.exposition, DEFAULT_CLASSES)
        self.exposition.read(self._read_fleet)
        self.exposition.read(self._read_router)
        dispatcher.observer = Observers((dispatcher.observer, self.metrics))

    def add_to(self, app: web.Application) -> None:
        """Serve ``/metrics`` beside the public API, unless it has a port of its own."""
        if self._settings.metrics_port is None:
            app.router.add_get(PATH, metrics_handler(self.exposition))

    async def start(self) -> None:
        """Listen for metrics, if told to. Raises SettingsError."""
        settings = self._settings
        if settings.metrics_port is not None:
            self._server = MetricsServer(self.exposition)
            port = await self._server.start(settings.metrics_host, settings.metrics_port)
            log.info("metrics", host=settings.metrics_host, port=port)

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop()

    async def run(self) -> None:
        """Until cancelled."""
        lag = self.metrics.loop_lag.at()
        await watch_loop_lag(lag.observe)

    def _read_fleet(self) -> Mapping[Metric, Reading]:
        now_s = time.monotonic()
        silence_s = {link.worker_id: now_s - link.heard_at_s for link in self._links}
        return read_fleet(self._links.snapshot(), silence_s)

    def _read_router(self) -> Mapping[Metric, Reading]:
        settings, dispatcher = self._settings, self._dispatcher
        return {
            catalogue.ROUTER_INFO: {(settings.router_id, VERSION, settings.model_name): 1.0},
            catalogue.RUNNING: {(): float(dispatcher.running_requests)},
            catalogue.HELD_TICKETS: {(): float(dispatcher.held_tickets)},
            catalogue.DRAINING: {(): float(dispatcher.draining)},
        }
