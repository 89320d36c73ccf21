"""Bytes that are no message, answered as what they are: the caller's fault.

gRPC itself ends such a call with UNKNOWN (asyncio servers) or INTERNAL (threaded ones) and a traceback in the log.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from segue.base.errors import InvalidRequest
from segue.base.grpc_status import status_metadata

_UNARY_REQUESTS = ("unary_unary", "unary_stream")


@dataclass(frozen=True, slots=True)
class _Undecodable:
    """Stands where the request should."""

    size_bytes: int
    reason: str


class RefuseUndecodable(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """INVALID_ARGUMENT for requests of one message that can't be decoded. Streams of requests are left as they are.

    For asyncio servers.
    """

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler: grpc.RpcMethodHandler[Any, Any] = _wrapped(await continuation(details), _checked)
        return handler


class RefuseUndecodableThreaded(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """The same for threaded servers."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: grpc.RpcMethodHandler[Any, Any] | None = _wrapped(continuation(details), _checked_in_thread)
        return handler


def _wrapped(handler: Any, checked: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Any:
    if handler is None or handler.request_streaming or handler.request_deserializer is None:
        return handler
    changed = {name: checked(own) for name in _UNARY_REQUESTS if (own := getattr(handler, name)) is not None}
    return handler._replace(request_deserializer=_lenient(handler.request_deserializer), **changed)


def _lenient(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def read(data: bytes) -> Any:
        try:
            return deserialize(data)
        except DecodeError as error:
            return _Undecodable(len(data), str(error))

    return read


def _checked(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    if inspect.isasyncgenfunction(behaviour):

        async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
            if isinstance(request, _Undecodable):
                await _refuse(request, context)
            async with aclosing(behaviour(request, context)) as responses:
                async for response in responses:
                    yield response

        return stream

    async def call(request: Any, context: Any) -> Any:
        if isinstance(request, _Undecodable):
            await _refuse(request, context)
        return await behaviour(request, context)

    return call


def _checked_in_thread(behaviour: Callable[..., Any]) -> Callable[..., Any]:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        if isinstance(request, _Undecodable):
            _refuse_in_thread(request, context)
        return behaviour(request, context)

    return call


async def _refuse(request: _Undecodable, context: Any) -> None:
    error = _error(request)
    await context.abort(error.grpc_status, error.message, status_metadata(error))


def _refuse_in_thread(request: _Undecodable, context: grpc.ServicerContext) -> NoReturn:
    error = _error(request)
    context.set_trailing_metadata(status_metadata(error))
    context.abort(error.grpc_status, error.message)
    raise AssertionError("unreachable: abort raises")


def _error(request: _Undecodable) -> InvalidRequest:
    return InvalidRequest(
        f"the request's {request.size_bytes} bytes are no message of this method: {request.reason}; "
        "build it from the .proto files of this version",
        code="undecodable_request",
    )
