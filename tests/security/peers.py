"""Callers that must get nothing, and what they get."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio

from segue.base.tls import TlsSource
from segue.base.tls_grpc import open_aio_channel
from tests.security.mesh import Authority

TIMEOUT_S = 60.0  # Far away: a busy machine may take seconds for a handshake.


def outsiders(ours: Authority, strangers: Authority) -> Iterator[tuple[str, TlsSource | None]]:
    """Everybody whom a mesh listener must refuse in the handshake already."""
    yield "plain text", None
    yield "no certificate", ours.trust_only
    yield "a stranger's certificate", strangers.trusting(ours, "prefill", "prefill-0")
    yield "an expired certificate", ours.source("prefill", "expired", expired=True)


async def grpc_outcome(
    address: str, tls: TlsSource | None, peer: str, method: str, request: Any = b"", metadata: Any = ()
) -> tuple[grpc.StatusCode, str]:
    """Status and details of one call; the response is only counted as one."""
    # A pool of its own: a connection that another caller's credentials have made must not be taken over.
    options = [("grpc.use_local_subchannel_pool", 1)]
    body = request if isinstance(request, bytes) else request.SerializeToString()
    async with open_aio_channel(address, tls, peer, options) as channel:
        # One message in one write, whatever the method takes: grpc.aio loses the status of a call that ends while its
        # client is about to write ("Internal error from Core").
        raw = channel.unary_stream(method)  # type: ignore[call-arg]  # Bytes are what is sent and what comes.
        call = raw(body, timeout=TIMEOUT_S, metadata=metadata)
        try:
            async for _ in call:
                return grpc.StatusCode.OK, "a response"
        except grpc.aio.AioRpcError:
            pass
        return await call.code(), await call.details() or ""


def tls_bytes(port: int, context: ssl.SSLContext, name: str) -> bytes:
    """What a listener says to an HTTP request over TLS; empty if it ends the handshake or the connection."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=name) as connection,
        ):
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            return connection.recv(65536)
    except (ssl.SSLError, ConnectionError):
        return b""


def plain_bytes(port: int, request: bytes = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
    """What a listener says to plain text."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as connection:
        connection.sendall(request)
        try:
            return connection.recv(65536)
        except ConnectionError:
            return b""


def served_certificate(port: int, ca: str, name: str) -> bytes:
    """The certificate (DER) that a listener shows to a caller who trusts ``ca``."""
    context = ssl.create_default_context(cafile=ca)
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as plain,
        context.wrap_socket(plain, server_hostname=name) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""
