"""What protects the router's listeners: certificates, and the gate in front of the public API."""

from __future__ import annotations

import ssl
from dataclasses import dataclass

from segue.base.errors import SettingsError
from segue.base.exposure import check_exposure
from segue.base.grpc_guard import AsyncGuard
from segue.base.tls import TlsSource, check_own_identity, load_mesh, load_tls
from segue.base.tls_http import server_context
from segue.router.access.edges import grpc_gate
from segue.router.access.gate import AccessGate, make_gate
from segue.router.settings import RouterSettings


@dataclass(frozen=True)
class Security:
    """``mesh`` is for the workers' port, ``public`` for the clients'; None is plain text, or no keys."""

    mesh: TlsSource | None
    public: TlsSource | None
    gate: AccessGate | None

    @property
    def public_guards(self) -> list[AsyncGuard]:
        return [] if self.gate is None else [AsyncGuard(grpc_gate(self.gate))]

    def http_context(self) -> ssl.SSLContext | None:
        return None if self.public is None else server_context(self.public)


def open_security(settings: RouterSettings) -> Security:
    """Raises SettingsError: files that can't be used, another's certificate, or plain text open to others."""
    check_exposure(
        settings.worker_host,
        "the workers' port",
        tls=settings.tls is not None,
        tls_option="--tls-cert, --tls-key and --tls-ca",
        insecure=settings.insecure,
    )
    check_exposure(
        settings.host,
        "the public API",
        tls=settings.public_tls is not None,
        tls_option="--public-tls-cert and --public-tls-key",
        insecure=settings.insecure,
    )
    mesh = load_mesh(settings.tls)
    if mesh is not None:
        check_own_identity(mesh, "router", "*")
    if settings.public_tls is not None and not settings.public_tls.cert:
        raise SettingsError("the public API needs a certificate and its key besides the clients' CA")
    gate = make_gate(settings.api_keys, settings.api_keys_file)
    return Security(mesh, load_tls(settings.public_tls), gate)
