"""The worker's own gRPC server: health, reflection, and the Worker service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio  # type: ignore[attr-defined]
from grpc_reflection.v1alpha import reflection

from segue.base.errors import InvalidRequest, SegueError, SettingsError
from segue.base.grpc_guard import AsyncGuard, only_kinds
from segue.base.tls import TlsSource
from segue.base.tls_grpc import add_port
from segue.engine.protocol import Engine
from segue.engine.settings import EngineRole
from segue.proto import worker_pb2
from segue.proto.worker_pb2 import (
    DescribeRequest,
    DescribeResponse,
    DrainRequest,
    DrainResponse,
    Role,
    TurnRequest,
    TurnResponse,
)
from segue.proto.worker_pb2_grpc import WorkerServicer, add_WorkerServicer_to_server
from segue.worker.runtime import WorkerRuntime

_ROLES: dict[Role, EngineRole] = {Role.ROLE_PREFILL: "prefill", Role.ROLE_DECODE: "decode"}
Turn = Callable[[EngineRole, float], Awaitable[TurnResponse]]

SERVICE = worker_pb2.DESCRIPTOR.services_by_name["Worker"].full_name


class WorkerService(WorkerServicer):
    """Describes the worker, begins its drain, and has it turn."""

    def __init__(self, runtime: WorkerRuntime, engine: Engine, drain: Callable[[float], float], turn: Turn) -> None:
        self._runtime = runtime
        self._engine = engine
        self._drain = drain
        self._turn = turn

    async def Describe(
        self, request: DescribeRequest, context: grpc.aio.ServicerContext[DescribeRequest, DescribeResponse]
    ) -> DescribeResponse:
        response = DescribeResponse(register=self._runtime.register, status=self._runtime.status)
        response.load.CopyFrom(self._engine.load())
        response.counters.CopyFrom(self._engine.counters())
        return response

    async def Drain(
        self, request: DrainRequest, context: grpc.aio.ServicerContext[DrainRequest, DrainResponse]
    ) -> DrainResponse:
        return DrainResponse(
            timeout_s=self._drain(request.timeout_s),
            running_requests=self._runtime.open_requests,
            held_offers=self._engine.load().held_offers,
        )

    async def Turn(
        self, request: TurnRequest, context: grpc.aio.ServicerContext[TurnRequest, TurnResponse]
    ) -> TurnResponse:
        try:
            if request.role not in _ROLES:
                raise InvalidRequest(f"name the role to turn to, prefill or decode; seen: {request.role}")
            return await self._turn(_ROLES[request.role], request.timeout_s)
        except SegueError as error:
            await context.abort(error.grpc_status, error.message)
            raise AssertionError("unreachable: abort raises") from error


class WorkerServer:
    """A listening server; ``address`` is what others dial. Health says NOT_SERVING until ``set_ready``.

    With TLS it answers routers and operators, and everybody of the mesh who asks for its health.
    """

    def __init__(self, host: str, port: int, tls: TlsSource | None = None) -> None:
        guards = [] if tls is None else [AsyncGuard(only_kinds("router", "operator"))]
        # gRPC lets processes share a port by default: each would get some of the other's calls.
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)], interceptors=guards)
        self._health = health_aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server)
        try:
            bound = add_port(self._server, f"{host}:{port}", tls)
        except RuntimeError as error:
            raise SettingsError(f"can't listen on {host}:{port}: {error}; choose another --port") from error
        self.address = f"{host}:{bound}"

    async def start(self, service: WorkerService) -> None:
        add_WorkerServicer_to_server(service, self._server)
        await self.set_ready(False)
        await self._server.start()

    async def set_ready(self, ready: bool) -> None:
        status = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, status)

    async def stop(self) -> None:
        await self._server.stop(grace=1.0)
