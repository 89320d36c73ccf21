"""Who may reach the pools' port of a cluster, and with what.

Whoever reaches ``segue.v1.Pools`` can drain every worker, so nobody does without a secret: a certificate of the mesh
for ``segue://operator/...`` where the cluster has certificates, else a token that was made for this cluster and lies in
a file of its owner's alone.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from segue.base.errors import Unauthenticated
from segue.base.grpc_guard import AsyncGuard, Gate, Release, only_kinds
from segue.base.identity import ROUTER_DNS
from segue.base.tls import TlsFiles, TlsSource, load_mesh
from segue.base.tls_grpc import open_aio_channel
from segue.proto.pools_pb2_grpc import PoolsStub

if TYPE_CHECKING:
    from segue.proto.pools_pb2_grpc import PoolsAsyncStub

_HEADER = "authorization"


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


@dataclass(frozen=True, slots=True)
class PoolsGuard:
    """What the port asks of its callers. ``tls`` is a router's certificate: the manager stands in front of the same
    workers. Without either, everybody on the machine is let in."""

    tls: TlsSource | None = None
    token: str = field(default="", repr=False)

    def interceptors(self) -> list[AsyncGuard]:
        if self.tls is not None:
            return [AsyncGuard(only_kinds("operator"))]
        return [AsyncGuard(only_with_token(self.token))] if self.token else []


@dataclass(frozen=True, slots=True)
class PoolsAt:
    """Where a cluster's pools are managed (host:port), and what shows that we may: ``tls`` is an operator's."""

    address: str
    tls: TlsFiles | None = None
    token: str = field(default="", repr=False)

    def channel(self) -> grpc.aio.Channel:
        """Raises SettingsError if the TLS files can't be used."""
        if self.tls is not None:
            return open_aio_channel(self.address, load_mesh(self.tls), ROUTER_DNS)
        interceptors: list[Any] = [_UnaryToken(self.token), _StreamToken(self.token)] if self.token else []
        return grpc.aio.insecure_channel(self.address, interceptors=interceptors)

    @asynccontextmanager
    async def stub(self) -> AsyncIterator[PoolsAsyncStub]:
        """Raises SettingsError as :meth:`channel`."""
        async with self.channel() as channel:
            stub: PoolsAsyncStub = PoolsStub(channel)
            yield stub

    def problem(self, error: grpc.aio.AioRpcError) -> str:
        """What to tell of a call that failed, in one line."""
        told = f"{self.address}: {error.details()}"
        if error.code() == grpc.StatusCode.UNAVAILABLE and self.tls is None:
            return f"{told}; if it asks for certificates, say where yours are: --certs DIR"
        return told


def only_with_token(token: str) -> Gate:
    """A gate for callers that send ``token`` as their bearer token."""
    expected = f"Bearer {token}".encode()

    def gate(method: str, context: Any) -> Release:
        sent = next((value for key, value in context.invocation_metadata() or () if key == _HEADER), "")
        if not hmac.compare_digest(sent.encode() if isinstance(sent, str) else sent, expected):
            raise Unauthenticated(
                f"{method} is for the owner of the cluster: its token is in the run file of whoever started it"
            )
        return _nothing

    return gate


def _nothing() -> None:
    return


_Continuation = Callable[[grpc.aio.ClientCallDetails, Any], Any]


def _with_token(details: grpc.aio.ClientCallDetails, token: str) -> grpc.aio.ClientCallDetails:
    metadata = grpc.aio.Metadata(*(details.metadata or ()), (_HEADER, f"Bearer {token}"))
    return grpc.aio.ClientCallDetails(
        details.method, details.timeout, metadata, details.credentials, details.wait_for_ready
    )


class _UnaryToken(grpc.aio.UnaryUnaryClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_unary(
        self, continuation: _Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_token(client_call_details, self._token), request)


class _StreamToken(grpc.aio.UnaryStreamClientInterceptor):  # type: ignore[type-arg]
    def __init__(self, token: str) -> None:
        self._token = token

    async def intercept_unary_stream(
        self, continuation: _Continuation, client_call_details: grpc.aio.ClientCallDetails, request: Any
    ) -> Any:
        return await continuation(_with_token(client_call_details, self._token), request)
