"""Who may call: one gate in front of every method of a gRPC server, for asyncio servers and for threaded ones.

A gate is asked before the method runs, with the method's full name and the call's context. It raises a
:class:`~segue.base.errors.SegueError` to refuse; what it returns is called when the call has ended.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, NoReturn

import grpc
import grpc.aio

from segue.base.errors import Forbidden, SegueError
from segue.base.grpc_status import status_metadata
from segue.base.identity import Kind, peer_identities
from segue.base.logging import get_logger

log = get_logger("guard")

Release = Callable[[], None]
Gate = Callable[[str, Any], Release]

HEALTH_PREFIX = "/grpc.health.v1.Health/"
_BEHAVIOURS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")


def only_kinds(*kinds: Kind) -> Gate:
    """A gate for callers of these kinds, by their certificate. Health is for every caller of the mesh."""

    def gate(method: str, context: Any) -> Release:
        callers = peer_identities(context.auth_context())
        if not method.startswith(HEALTH_PREFIX) and not any(caller.kind in kinds for caller in callers):
            seen = ", ".join(map(str, callers)) or "no segue:// name"
            log.warning("caller_refused", method=method, peer=context.peer(), certificate=seen)
            raise Forbidden(f"{method} is for {' and '.join(kinds)}; the caller's certificate is for {seen}")
        return _nothing

    return gate


def only_below(prefix: str, gate: Gate) -> Gate:
    """A gate in front of those methods alone whose full names begin so."""

    def chosen(method: str, context: Any) -> Release:
        return gate(method, context) if method.startswith(prefix) else _nothing

    return chosen


class AsyncGuard(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """The gate in front of an asyncio server."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler = await continuation(details)
        guarded: grpc.RpcMethodHandler[Any, Any] = _wrapped(handler, lambda own: self._guarded(own, details.method))
        return guarded

    def _guarded(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        if inspect.isasyncgenfunction(behaviour):

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                release = await self._enter(method, context)
                try:
                    async with aclosing(behaviour(request, context)) as responses:
                        async for response in responses:
                            yield response
                finally:
                    release()

            return stream

        async def call(request: Any, context: Any) -> Any:
            release = await self._enter(method, context)
            try:
                return await behaviour(request, context)
            finally:
                release()

        return call

    async def _enter(self, method: str, context: Any) -> Release:
        try:
            return self._gate(method, context)
        except SegueError as error:
            await context.abort(error.grpc_status, error.message, status_metadata(error))
            raise AssertionError("unreachable: abort raises") from error


class Guard(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """The gate in front of a threaded server. It is released before a streamed answer begins."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = continuation(details)
        guarded: grpc.RpcMethodHandler[Any, Any] = _wrapped(handler, lambda own: self._guarded(own, details.method))
        return guarded

    def _guarded(self, behaviour: Callable[..., Any], method: str) -> Callable[..., Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            try:
                release = self._gate(method, context)
            except SegueError as error:
                _abort(context, error)
            try:
                return behaviour(request, context)
            finally:
                release()

        return call


def _wrapped(handler: Any, guarded: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    """The handler with its one behaviour behind the gate. None (an unknown method) stays None."""
    if handler is None:
        return None
    behaviours: Mapping[str, Any] = {name: getattr(handler, name) for name in _BEHAVIOURS}
    return handler._replace(**{name: guarded(own) for name, own in behaviours.items() if own is not None})


def _abort(context: grpc.ServicerContext, error: SegueError) -> NoReturn:
    context.set_trailing_metadata(status_metadata(error))
    context.abort(error.grpc_status, error.message)
    raise AssertionError("unreachable: abort raises")


def _nothing() -> None:
    return
