"""Bytes that are no message, answered as what they are: the caller's fault.

gRPC itself ends such a call with UNKNOWN and a traceback in the log.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

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
    """INVALID_ARGUMENT for requests of one message that can't be decoded. Streams of requests are left as they are."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any]]],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        handler: Any = await continuation(details)
        if handler is None or handler.request_streaming or handler.request_deserializer is None:
            return handler  # type: ignore[no-any-return]
        changed = {name: _checked(own) for name in _UNARY_REQUESTS if (own := getattr(handler, name)) is not None}
        return handler._replace(  # type: ignore[no-any-return]
            request_deserializer=_lenient(handler.request_deserializer), **changed
        )


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


async def _refuse(request: _Undecodable, context: Any) -> None:
    error = InvalidRequest(
        f"the request's {request.size_bytes} bytes are no message of this method: {request.reason}; "
        "build it from the .proto files that the server's reflection gives",
        code="undecodable_request",
    )
    await context.abort(error.grpc_status, error.message, status_metadata(error))
