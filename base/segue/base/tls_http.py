"""TLS for HTTP listeners and clients."""

from __future__ import annotations

import ssl

from segue.base.errors import SettingsError
from segue.base.logging import get_logger
from segue.base.tls import TlsFiles, TlsSource

log = get_logger("tls")


def server_context(tls: TlsSource) -> ssl.SSLContext:
    """For a listener. Every handshake gets the certificate and the client CA that the files hold at that moment."""
    context = _server_context(tls.files)
    served, version = context, tls.current().version

    def on_hello(connection: ssl.SSLObject, server_name: str | None, first: ssl.SSLContext) -> None:
        nonlocal served, version
        now = tls.current().version
        if now != version:
            try:
                served, version = _server_context(tls.files), now
            except SettingsError as error:  # Changed again in between: the next handshake tries again.
                log.warning("certificate_not_reloaded", cert=tls.files.cert, error=str(error))
        connection.context = served

    context.sni_callback = on_hello  # Called without a server name too.
    return context


def _server_context(files: TlsFiles) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(files.cert, files.key)
        if files.ca:
            context.load_verify_locations(files.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"can't serve TLS with {files.cert}: {error}") from None
    return context


def client_context(files: TlsFiles) -> ssl.SSLContext:
    """For callers: trusts ``files.ca`` or else the system's CAs, and shows the certificate if there is one.

    Raises:
        SettingsError: a file can't be used.
    """
    try:
        context = ssl.create_default_context(cafile=files.ca or None)
        if files.cert:
            context.load_cert_chain(files.cert, files.key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"can't use the TLS files {files}: {error}") from None
    return context
