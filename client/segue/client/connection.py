"""How a client reaches a router: in plain text or with TLS, with or without an API key."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc.aio

from segue.base.errors import SettingsError
from segue.base.exposure import is_loopback
from segue.base.tls import TlsFiles, TlsSource, load_tls
from segue.base.tls_grpc import open_aio_channel


@dataclass(frozen=True, slots=True)
class Connection:
    """``address`` is the host:port of a router's public gRPC.

    ``tls`` with nothing in it trusts the system's CAs; None is plain text, in which an API key goes out only to this
    machine, unless ``plain_text_key`` says that the network may see it.
    """

    address: str
    api_key: str | None = field(default=None, repr=False)
    tls: TlsFiles | None = None
    plain_text_key: bool = False

    def __post_init__(self) -> None:
        host = self.address.rpartition(":")[0]
        if self.api_key and self.tls is None and not self.plain_text_key and not is_loopback(host):
            raise SettingsError(
                f"the API key would go to {host} in plain text; use TLS (tls=TlsFiles(ca=...), in segue ask "
                "--tls-ca), or plain_text_key=True if the network in between is closed to others"
            )

    def open(self) -> grpc.aio.Channel:
        """Raises SettingsError if the TLS files can't be used."""
        source: TlsSource | None = load_tls(self.tls)
        return open_aio_channel(self.address, source)

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What each call carries."""
        return (("authorization", f"Bearer {self.api_key}"),) if self.api_key else ()
