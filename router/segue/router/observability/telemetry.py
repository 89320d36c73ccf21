"""What a router process tells operators: metrics, and how late its event loop is."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Mapping

from aiohttp import web

from segue.base.logging import get_logger
from segue.base.loop_lag import INTERVAL_S, Lag, watch_loop_lag
from segue.base.metrics import Exposition, Metric, Reading
from segue.base.metrics_http import PATH, MetricsServer, metrics_handler
from segue.base.tracing import Tracing, TracingSettings, open_tracing
from segue.base.versions import VERSION
from segue.proto.fleet_pb2 import FleetState
from segue.router.lifecycle.dispatcher import Dispatcher
from segue.router.lifecycle.records import Observers, RouterObserver
from segue.router.metrics import catalogue
from segue.router.metrics.fleet_gauges import read_fleet
from segue.router.metrics.fleet_state import Requests, Times, fleet_state
from segue.router.metrics.link_rates import link_messages, link_readings
from segue.router.metrics.observer import RouterMetrics
from segue.router.metrics.window import WINDOW_S, Window
from segue.router.observability.request_log import RequestLog
from segue.router.settings import RouterSettings
from segue.router.workers.links import WorkerLinks

log = get_logger("router")

_TICK_S = 1.0


class Telemetry:
    """Observes the dispatcher, beside whoever does already. Raises SettingsError: spans can't be sent as told."""

    def __init__(self, settings: RouterSettings, links: WorkerLinks, dispatcher: Dispatcher) -> None:
        self._settings = settings
        self._links = links
        self._dispatcher = dispatcher
        self._server: MetricsServer | None = None
        self._began_s = self._ticked_s = time.monotonic()
        self.exposition = Exposition()
        self.metrics = RouterMetrics(self.exposition, settings.slo_classes)
        self.exposition.read(self._read_fleet)
        self.exposition.read(self._read_router)
        self.exposition.read(lambda: link_readings(link_messages(links.transfers)))
        self._window = Window(self.metrics.look, self._began_s)
        self._lags: deque[float] = deque(maxlen=round(WINDOW_S / INTERVAL_S))
        self._tracing: Tracing | None = None
        if settings.otlp_endpoint:
            traced = TracingSettings(settings.otlp_endpoint, settings.trace_ratio)
            self._tracing = dispatcher.around.tracing = open_tracing(traced, "segue-router", settings.router_id)
        others = () if type(dispatcher.around.observer) is RouterObserver else (dispatcher.around.observer,)
        dispatcher.around.observer = Observers((*others, self.metrics, RequestLog(every=settings.log_requests)))

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
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.stop)

    async def run(self) -> None:
        """Until cancelled."""
        await watch_loop_lag(self._on_lag)

    def state(self, window_s: float = WINDOW_S) -> FleetState:
        """The fleet, what this router has in hand, and its last ``window_s``."""
        settings, now_s = self._settings, time.monotonic()
        ready_for_s = {link.worker_id: now_s - link.ready_at_s for link in self._links if link.ready}
        state = fleet_state(
            self._links.snapshot(),
            Times(self._silence_s(now_s), ready_for_s),
            self._in_hand(),
            self._window.rates(now_s, window_s),
            settings.slo_classes,
        )
        state.router_id, state.version, state.model = settings.router_id, VERSION, settings.model_name
        state.time_unix_s = time.time()
        state.links.extend(link_messages(self._links.transfers))
        state.uptime_s = now_s - self._began_s
        state.window_s = self._window.seconds(now_s, window_s)
        state.draining = self._dispatcher.draining
        state.event_loop_lag_s = max(self._lags, default=0.0)
        return state

    def cached_share(self) -> float:
        """Of the last minute's prompt tokens, those that came from a prefix cache."""
        return self._window.cached_share(time.monotonic())

    def _on_lag(self, lag: Lag) -> None:
        self.metrics.on_lag(lag)
        self._lags.append(lag.seconds)
        now_s = time.monotonic()
        if now_s - self._ticked_s >= _TICK_S:
            self._ticked_s = now_s
            self._window.tick(now_s)

    def _in_hand(self) -> Requests:
        dispatcher = self._dispatcher
        queued = {one.name: dispatcher.waiting.queued(one.name) for one in self._settings.slo_classes}
        in_hand = Counter(request.slo_class for request in dispatcher.requests)
        return Requests(in_hand - Counter(queued), queued, dispatcher.waiting.queued_tokens)

    def _silence_s(self, now_s: float) -> dict[str, float]:
        return {link.worker_id: now_s - link.heard_at_s for link in self._links}

    def _read_fleet(self) -> Mapping[Metric, Reading]:
        return read_fleet(self._links.snapshot(), self._silence_s(time.monotonic()))

    def _read_router(self) -> Mapping[Metric, Reading]:
        settings, dispatcher = self._settings, self._dispatcher
        held = sum(run.held is not None for request in dispatcher.requests for run in request.runs)
        return {
            catalogue.ROUTER_INFO: {(settings.router_id, VERSION, settings.model_name): 1.0},
            catalogue.RUNNING: {(): float(dispatcher.running_requests)},
            catalogue.QUEUED: {(one.name,): float(dispatcher.waiting.queued(one.name)) for one in settings.slo_classes},
            catalogue.PROMISED_TTFT: {(one.name,): one.ttft_s for one in settings.slo_classes if one.interactive},
            catalogue.PROMISED_PACE: {
                (one.name,): one.tokens_per_s for one in settings.slo_classes if one.tokens_per_s
            },
            catalogue.QUEUED_TOKENS: {(): float(dispatcher.waiting.queued_tokens)},
            catalogue.INDEX_BLOCKS: {(): float(len(dispatcher.around.placement.index))},
            catalogue.INDEX_DROPPED: {(): float(dispatcher.around.placement.index.dropped_blocks)},
            catalogue.HELD_TICKETS: {(): float(held)},
            catalogue.DRAINING: {(): float(dispatcher.draining)},
        }
