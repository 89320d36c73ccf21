"""The router process: OpenAI HTTP, public gRPC and the workers' hub on one event loop."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import grpc.aio
from aiohttp import web
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection

from segue.base.errors import SettingsError
from segue.base.grpc_guard import AsyncGuard, only_below, only_kinds
from segue.base.identity import Kind
from segue.base.logging import get_logger, setup_logging
from segue.base.process import collect_seldom, on_stop_signals
from segue.base.tls import TlsSource
from segue.base.tls_grpc import add_port
from segue.base.undecodable import RefuseUndecodable
from segue.proto import fleet_pb2, inference_pb2
from segue.proto.externalscaler_pb2_grpc import add_ExternalScalerServicer_to_server
from segue.proto.fleet_pb2_grpc import add_FleetServicer_to_server
from segue.proto.inference_pb2_grpc import add_InferenceServicer_to_server
from segue.proto.worker_pb2_grpc import add_WorkerHubServicer_to_server
from segue.router.access.edges import http_middleware, session_gate
from segue.router.accounting.books import Books, open_books
from segue.router.lifecycle.continuation import ContinuationPolicy
from segue.router.lifecycle.dispatcher import Dispatcher
from segue.router.lifecycle.placement import Placement
from segue.router.limits import Limits
from segue.router.models import Models
from segue.router.observability.telemetry import Telemetry
from segue.router.openai.server import make_app, make_runner
from segue.router.planning.disaggregation import Disaggregation
from segue.router.planning.planner import Policy
from segue.router.prefixes.prefix_index import PrefixIndex
from segue.router.public_grpc.api import InferenceService
from segue.router.public_grpc.fleet_service import FleetService
from segue.router.queueing.admission import Admission
from segue.router.readiness import add_readiness
from segue.router.scaling.all_routers import AllRouters
from segue.router.scaling.external_scaler import ExternalScaler
from segue.router.scaling.pool_load import Queue
from segue.router.security import Security, open_security
from segue.router.settings import RouterSettings
from segue.router.text.tokenizer import TextCodec
from segue.router.workers.hub import WorkerHub
from segue.router.workers.links import WorkerLinks

log = get_logger("router")

_MAX_FRAME_BYTES = 64 << 20
_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["Inference"].full_name
_FLEET_KINDS: tuple[Kind, ...] = ("router", "operator")
_FLEET = fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].full_name


def run(settings: RouterSettings) -> int:
    """Run until told to stop; the process's exit status: 0 stopped, 2 can't run as configured."""
    setup_logging(settings.log_format)
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_Router(settings.for_process()).run())
    except SettingsError as error:
        log.error("cannot_start", error=str(error))
        return 2
    return 0


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop


class _Router:
    """Start in order, stop in the reverse order: clients first, workers last."""

    def __init__(self, settings: RouterSettings) -> None:
        self._settings = settings
        self._stop = asyncio.Event()

    async def run(self) -> None:
        with open_books(self._settings) as books:  # Closed last: requests end until the servers have.
            await self._run(books)

    async def _run(self, books: Books) -> None:
        settings = self._settings
        security = open_security(settings)
        codec = TextCodec.load(settings.model)
        limits = replace(settings.limits, default_timeout_s=settings.default_timeout_s)
        models = Models(settings.model_name, codec, created_unix_s=int(time.time()))
        links = WorkerLinks()
        continuation = ContinuationPolicy(settings.max_continuations, settings.continuation_patience_s)
        admission = Admission(settings.max_queue_s, settings.slo_classes, settings.queue_bounds)
        dispatcher = Dispatcher(links, models.__getitem__, settings.max_concurrent_requests, continuation, admission)
        policy = Policy(settings.routing, Disaggregation(settings.disaggregation, settings.max_stall_s))
        dispatcher.around.placement = Placement(links, policy, PrefixIndex(settings.prefix_index_blocks))
        books.keep(dispatcher)
        telemetry = Telemetry(settings, links, dispatcher)
        hub = WorkerHub(settings.router_id, settings.worker_lease_s, links, dispatcher.news, models)
        hub.ports = settings.worker_ports

        fleet = FleetService(telemetry.state)
        workers = _hub_server(hub, fleet, security.mesh)
        enter = session_gate(security.gate)
        service = InferenceService(dispatcher, models, limits, settings.slo_classes, enter)
        public = _public_server(service, limits, security.public_guards, shared=settings.processes > 1)
        add_FleetServicer_to_server(fleet, public)
        health = await _add_health_and_reflection(public)

        app = make_app(dispatcher, models, limits, settings.slo_classes)
        add_readiness(app, links, lambda: dispatcher.draining)
        telemetry.add_to(app)
        if security.gate is not None:
            app.middlewares.append(http_middleware(security.gate))
        runner = make_runner(app, limits, shutdown_timeout_s=1.0)
        await runner.setup()
        worker_port = _listen(workers, settings.worker_host, settings.own_worker_port, "--worker-port", security.mesh)
        grpc_port = _listen(public, settings.host, settings.grpc_port, "--grpc-port", security.public)
        await _listen_http(runner, settings, security)
        await telemetry.start()
        await workers.start()
        await public.start()
        routers = AllRouters(settings.router_id, links, lambda: _queue(dispatcher, telemetry))
        scaler = _scaler_server(settings, links, routers, security.mesh)
        if scaler is not None:
            await scaler.start()
        http_port = runner.addresses[0][1]
        log.info(
            "serving",
            model=settings.model_name,
            http=http_port,
            grpc=grpc_port,
            workers=worker_port,
            public_tls=security.public is not None,
            worker_tls=security.mesh is not None,
            api_keys=security.gate is not None,
        )

        collect_seldom()
        await self._serve(dispatcher, telemetry, routers, health)
        await runner.cleanup()
        await public.stop(grace=1.0)
        if scaler is not None:
            await scaler.stop(grace=None)
        # Streams that the server cut would still be unwinding when the loop closes.
        hub.close()
        await workers.stop(grace=1.0)
        await telemetry.stop()

    async def _serve(
        self, dispatcher: Dispatcher, telemetry: Telemetry, routers: AllRouters, health: health_aio.HealthServicer
    ) -> None:
        """Until told to stop, and what runs then has ended."""
        on_stop_signals(asyncio.get_running_loop(), self._stop.set)
        async with asyncio.TaskGroup() as tasks:
            endless = (
                tasks.create_task(dispatcher.keep_leases(), name="leases"),
                tasks.create_task(telemetry.run(), name="telemetry"),
                tasks.create_task(routers.run(), name="backlog for the other routers"),
            )
            await self._stop.wait()
            log.info("draining", requests=dispatcher.running_requests)
            await health.enter_graceful_shutdown()
            await dispatcher.drain(self._settings.drain_timeout_s)
            for task in endless:
                task.cancel()


async def _listen_http(runner: web.AppRunner, settings: RouterSettings, security: Security) -> None:
    shared = True if settings.processes > 1 else None
    tls = security.http_context()
    try:
        await web.TCPSite(runner, settings.host, settings.port, ssl_context=tls, reuse_port=shared).start()
    except OSError as error:
        raise SettingsError(
            f"can't listen on {settings.host}:{settings.port}: {error}; choose another --port"
        ) from error


def _scaler_server(
    settings: RouterSettings, links: WorkerLinks, routers: AllRouters, tls: TlsSource | None
) -> grpc.aio.Server | None:
    """What KEDA dials, on a port of its own: clients have no business there, and KEDA none among the workers."""
    if not settings.scaler_port:
        return None
    server = _new_server(64 << 10)
    add_ExternalScalerServicer_to_server(ExternalScaler(links.snapshot, routers.backlog), server)
    _listen(server, settings.worker_host, settings.scaler_port, "--scaler-port", tls)
    return server


def _queue(dispatcher: Dispatcher, telemetry: Telemetry) -> Queue:
    waiting = dispatcher.waiting
    return Queue(len(waiting), waiting.queued_tokens, telemetry.cached_share()) if len(waiting) else Queue()


def _hub_server(hub: WorkerHub, fleet: FleetService, mesh: TlsSource | None) -> grpc.aio.Server:
    """With the fleet, for whoever scales the pools: each process has this port for itself, and it asks for no key."""
    insiders = [] if mesh is None else [AsyncGuard(only_below(f"/{_FLEET}/", only_kinds(*_FLEET_KINDS)))]
    server = _new_server(_MAX_FRAME_BYTES, insiders)
    add_WorkerHubServicer_to_server(hub, server)
    add_FleetServicer_to_server(fleet, server)
    return server


def _public_server(
    service: InferenceService, limits: Limits, guards: Sequence[AsyncGuard], *, shared: bool
) -> grpc.aio.Server:
    interceptors: list[AsyncGuard | RefuseUndecodable] = [*guards, RefuseUndecodable()]
    server = _new_server(limits.max_body_bytes, interceptors, limits.max_header_bytes, shared=shared)
    add_InferenceServicer_to_server(service, server)
    return server


def _new_server(
    max_receive_bytes: int,
    guards: Sequence[AsyncGuard | RefuseUndecodable] = (),
    max_metadata_bytes: int = 16 << 10,
    *,
    shared: bool = False,
) -> grpc.aio.Server:
    # By default gRPC shares its port with any other process that asks: a second router would start without a word,
    # and the kernel would deal clients and workers out between the two. ``shared``: that is what is wanted.
    options = [
        ("grpc.max_receive_message_length", max_receive_bytes),
        ("grpc.max_metadata_size", max_metadata_bytes),
        # Between the two gRPC refuses some calls, at random; a limit is a limit.
        ("grpc.absolute_max_metadata_size", max_metadata_bytes),
        ("grpc.so_reuseport", int(shared)),
        # Workers ping every 2 s. By default that is an attack for which gRPC ends the connection, unless it has had
        # something to send meanwhile: it hasn't to idle workers, nor while this process stands still.
        ("grpc.http2.min_ping_interval_without_data_ms", 1000),
    ]
    return grpc.aio.server(options=options, interceptors=guards)


def _listen(server: grpc.aio.Server, host: str, port: int, option: str, tls: TlsSource | None) -> int:
    try:
        return add_port(server, f"{host}:{port}", tls)
    except RuntimeError as error:
        raise SettingsError(f"can't listen on {host}:{port}: {error}; choose another {option}") from error


async def _add_health_and_reflection(server: grpc.aio.Server) -> health_aio.HealthServicer:
    health = health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    health_name = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
    reflection.enable_server_reflection((_SERVICE, _FLEET, health_name, reflection.SERVICE_NAME), server)
    for name in ("", _SERVICE):
        await health.set(name, health_pb2.HealthCheckResponse.SERVING)
    return health
