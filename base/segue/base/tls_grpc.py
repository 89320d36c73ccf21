"""gRPC ports and channels, with TLS or in plain text. A rotated certificate is served from the next handshake on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, Protocol, TypeVar

import grpc
import grpc.aio

from segue.base.errors import SettingsError
from segue.base.tls import Pem, TlsSource

Options = Sequence[tuple[str, Any]]


class _Server(Protocol):
    def add_insecure_port(self, address: str) -> int: ...

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int: ...


def add_port(server: _Server, address: str, tls: TlsSource | None) -> int:
    """Listen at ``address`` (host:port); the port. Callers need a certificate if the TLS files name a CA.

    Raises:
        RuntimeError: the port can't be had.
        SettingsError: there is no certificate to serve.
    """
    if tls is None:
        return server.add_insecure_port(address)
    return server.add_secure_port(address, server_credentials(tls))


def server_credentials(tls: TlsSource) -> grpc.ServerCredentials:
    first = tls.current()
    if first.cert is None:
        raise SettingsError("a listener with TLS needs a certificate and its key")
    served = first.version

    def changed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal served
        pem = tls.current()
        if pem.version == served:
            return None
        served = pem.version
        return _configuration(pem)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(first),
        changed,  # type: ignore[arg-type]  # None says that nothing has changed; the stubs don't know.
        require_client_authentication=first.ca is not None,
    )


def _configuration(pem: Pem) -> grpc.ServerCertificateConfiguration:
    assert pem.key is not None
    assert pem.cert is not None
    return grpc.ssl_server_certificate_configuration([(pem.key, pem.cert)], root_certificates=pem.ca)


def channel_credentials(pem: Pem) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(pem.ca, pem.key, pem.cert)


def open_channel(address: str, tls: TlsSource | None, peer: str = "", options: Options = ()) -> grpc.Channel:
    """``peer`` is the DNS name that the listener's certificate must have; empty: the host that is dialled."""
    if tls is None:
        return grpc.insecure_channel(address, options=options)
    return grpc.secure_channel(address, channel_credentials(tls.current()), options=_named(options, peer))


def open_aio_channel(address: str, tls: TlsSource | None, peer: str = "", options: Options = ()) -> grpc.aio.Channel:
    """As :func:`open_channel`, for asyncio."""
    if tls is None:
        return grpc.aio.insecure_channel(address, options=options)
    return grpc.aio.secure_channel(address, channel_credentials(tls.current()), options=_named(options, peer))


def _named(options: Options, peer: str) -> Options:
    return [*options, ("grpc.ssl_target_name_override", peer)] if peer else options


_Channel = TypeVar("_Channel")


class Channels(Generic[_Channel]):
    """Channels kept by whom they reach, opened anew once our certificate has been rotated. From any thread.

    A channel that is replaced keeps its calls; whoever closes the others closes it too (:meth:`take_all`).
    """

    def __init__(self, open_: Callable[[str, TlsSource | None, str, Options], _Channel], tls: TlsSource | None) -> None:
        self._open = open_
        self._tls = tls
        self._lock = threading.Lock()
        self._kept: dict[tuple[str, str], tuple[int, _Channel]] = {}
        self._replaced: list[_Channel] = []

    def get(self, address: str, peer: str = "", options: Options = ()) -> _Channel:
        """The channel to the listener at ``address`` whose certificate names ``peer``; see :func:`open_channel`."""
        version = 0 if self._tls is None else self._tls.current().version
        with self._lock:
            known = self._kept.get((address, peer))
            if known is not None and known[0] == version:
                return known[1]
            if known is not None:
                self._replaced.append(known[1])
            channel = self._open(address, self._tls, peer, options)
            self._kept[address, peer] = version, channel
            return channel

    def take_all(self) -> list[_Channel]:
        """Every channel there is, to be closed by the caller; what is asked for afterwards is opened anew."""
        with self._lock:
            channels = [channel for _, channel in self._kept.values()] + self._replaced
            self._kept, self._replaced = {}, []
            return channels
