"""Threads of their own for some methods of a threaded gRPC server, so that those never hold up the others."""

from __future__ import annotations

from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc

_BEHAVIOURS = ("unary_unary", "unary_stream")


class OwnThreads(grpc.ServerInterceptor):  # type: ignore[type-arg]
    """``methods`` (full names, with requests of one message) run on ``threads``, all others on the server's.

    gRPC looks for the pool on the outermost function of a method: this must be the first of the interceptors. It calls
    that experimental, so a test holds it to it.
    """

    def __init__(self, methods: Collection[str], threads: ThreadPoolExecutor) -> None:
        self._methods = frozenset(methods)
        self._threads = threads

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler: Any = continuation(details)
        if handler is None or details.method not in self._methods:
            return handler  # type: ignore[no-any-return]
        changed = {name: self._on_threads(own) for name in _BEHAVIOURS if (own := getattr(handler, name)) is not None}
        return handler._replace(**changed)  # type: ignore[no-any-return]

    def _on_threads(self, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        def call(request: Any, context: grpc.ServicerContext) -> Any:
            return behaviour(request, context)

        call.experimental_thread_pool = self._threads  # type: ignore[attr-defined]
        return call
