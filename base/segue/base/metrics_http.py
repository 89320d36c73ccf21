"""``GET /metrics``: an exposition over HTTP, on a server of its own or on a route of another one."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from aiohttp import web
from prometheus_client import GCCollector, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector, CollectorRegistry

from segue.base.errors import SettingsError
from segue.base.metrics import Exposition

PATH = "/metrics"


class _Collected(Collector):
    """What was read on the event loop, for a thread to write out."""

    def __init__(self, families: Iterable[Family]) -> None:
        self._families = list(families)

    def collect(self) -> Iterable[Family]:
        return self._families


def metrics_handler(exposition: Exposition) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Answers in Prometheus's text format or in OpenMetrics, as asked. Adds figures of the process itself.

    Values are read on the event loop and so belong to one moment; writing them out, which takes longer, is done on a
    thread and holds no token up.
    """
    process = CollectorRegistry()
    ProcessCollector(registry=process)
    GCCollector(registry=process)

    async def handle(request: web.Request) -> web.Response:
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        registry = CollectorRegistry()
        registry.register(_Collected([*exposition.collect(), *process.collect()]))
        body = await asyncio.to_thread(encode, registry)
        response = web.Response(body=body, headers={"Content-Type": content_type})
        if len(body) > 8192:
            response.enable_compression()
        return response

    return handle


class MetricsServer:
    """A listener of its own for ``/metrics``, and for those who watch the process: ``/healthz``, and where ``ready`` is
    given ``/readyz``, 503 while it is False."""

    def __init__(self, exposition: Exposition, ready: Callable[[], bool] | None = None) -> None:
        app = web.Application()
        app.router.add_get(PATH, metrics_handler(exposition))
        app.router.add_get("/healthz", _healthz)
        if ready is not None:
            app.router.add_get("/readyz", _readyz(ready))
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)

    async def start(self, host: str, port: int) -> int:
        """Listen; the port. Raises SettingsError."""
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, host, port).start()
        except OSError as error:
            await self.stop()
            raise SettingsError(
                f"can't listen on {host}:{port} for metrics: {error}; choose another --metrics-port"
            ) from error
        bound: int = self._runner.addresses[0][1]
        return bound

    async def stop(self) -> None:
        with suppress(asyncio.CancelledError):
            await self._runner.cleanup()


async def _healthz(request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


def _readyz(ready: Callable[[], bool]) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        answer = ready()
        return web.json_response({"ready": answer}, status=200 if answer else 503)

    return handle
