"""The gate at the two edges: a middleware for OpenAI HTTP, a gate for public gRPC."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from segue.base.errors import Unauthenticated
from segue.base.grpc_guard import HEALTH_PREFIX, Gate, Release
from segue.router.access.caller import set_caller
from segue.router.access.gate import AccessGate, Audience

_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# Load balancers and kubelets have no key. What these answer holds no request and no token.
OPEN_PATHS = frozenset({"/healthz", "/readyz"})
# For operators: they tell how much is asked, by whom and where.
OPERATIONS_PATHS = frozenset({"/metrics"})
_OPERATIONS_PREFIX = "/segue.v1.Fleet/"
_REFLECTION_PREFIX = "/grpc.reflection."
# Not counted against a key's limits: they cost nothing worth counting.
# A session's requests are counted one by one: see :func:`session_gate`.
_FREE_METHODS = frozenset({"/segue.v1.Inference/ListModels", "/segue.v1.Inference/Session"})


def http_middleware(gate: AccessGate) -> Any:
    """Lets a request through with a known key, and holds the key's slot until the answer has ended."""

    @web.middleware
    async def require_key(request: web.Request, handler: _Handler) -> web.StreamResponse:
        if request.path in OPEN_PATHS:
            return await handler(request)
        authorization = request.headers.get("Authorization")
        try:
            key = gate.authenticate(authorization, "operators" if request.path in OPERATIONS_PATHS else "clients")
            set_caller(key.name)
            if request.method in ("GET", "HEAD", "OPTIONS"):
                return await handler(request)
            release = gate.admit(key)
        except Unauthenticated as error:
            gate.log_refusal(error, "http", request.remote or "")
            raise
        try:
            return await handler(request)
        finally:
            release()

    return require_key


def grpc_gate(gate: AccessGate) -> Gate:
    """The same for gRPC. Health is open; reflection, which tells of everything else, is not."""

    def enter(method: str, context: Any) -> Release:
        if method.startswith(HEALTH_PREFIX):
            return _nothing
        authorization = _authorization(context)
        try:
            wanted = _wanted(method)
            key = gate.authenticate(authorization, wanted)
            set_caller(key.name)
            return _nothing if wanted != "clients" or method in _FREE_METHODS else gate.admit(key)
        except Unauthenticated as error:
            gate.log_refusal(error, "grpc", context.peer())
            raise

    return enter


def session_gate(gate: AccessGate | None) -> Callable[[Any], Release]:
    """For each request of a session: its key as it is now, counted against the key's limits. Raises SegueError."""

    def enter(context: Any) -> Release:
        return _nothing if gate is None else gate.admit(gate.authenticate(_authorization(context), "clients"))

    return enter


def _authorization(context: Any) -> str | None:
    return next((value for name, value in context.invocation_metadata() if name == "authorization"), None)


def _wanted(method: str) -> Audience:
    """Whom a gRPC method is for. Reflection tells of everything, and only that."""
    if method.startswith(_REFLECTION_PREFIX):
        return "everyone"
    return "operators" if method.startswith(_OPERATIONS_PREFIX) else "clients"


def _nothing() -> None:
    return
