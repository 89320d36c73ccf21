"""What a vLLM connector of ours is told, through ``kv_connector_extra_config``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from segue.base.tls import TlsFiles
from segue.kv_transfer.read_check import DigestMode

KEY = "segue"


@dataclass(frozen=True, slots=True)
class ConnectorConfig:
    """Identity and limits of one engine's KV transfer.

    ``address`` is the host:port on which the engine serves ``KvTransfer``. ``advertise`` is where peers reach it, if
    that is elsewhere. ``lease_s`` is how long an offer waits to be claimed. ``tls`` are paths; the files are read where
    they are used. ``shared_port`` says that the port is held for us by a socket that doesn't listen. ``kv_digest`` is
    how much of what NIXL moves is checked.
    """

    worker_id: str
    epoch: str
    address: str
    lease_s: float
    model_fingerprint: str
    advertise: str = ""
    tls: TlsFiles | None = None
    shared_port: bool = False
    kv_digest: DigestMode = "full"

    @property
    def ticket_address(self) -> str:
        """What tickets tell the consumer to dial."""
        return self.advertise or self.address

    def as_extra_config(self) -> dict[str, Any]:
        return {KEY: asdict(self)}

    @classmethod
    def from_extra_config(cls, extra: Mapping[str, Any]) -> ConnectorConfig:
        given = dict(extra[KEY])
        tls = given.pop("tls", None)
        return cls(**given, tls=None if tls is None else TlsFiles(**tls))


@dataclass(frozen=True, slots=True)
class TransferReport:
    """How one claim went on the consumer; ``error`` is empty if the blocks were loaded and verified.

    ``tokens`` are those whose KV was to be transferred; tokens in the consumer's own prefix cache don't count.
    ``corrupt``: the error is that digests differ. ``digest_seconds``: what of ``seconds`` went into checking them.
    """

    transport: str
    tokens: int
    bytes: int
    seconds: float
    error: str = ""
    corrupt: bool = False
    digest_seconds: float = 0.0


class EngineWaker:
    """What the engine's thread waits on when it has nothing to compute: a transfer that ends must wake it.

    One for each process, since vLLM makes the connectors and passes them nothing of ours. The in-process engine sets
    it; an engine core in a process of its own polls instead, and leaves it as it is.
    """

    def __init__(self) -> None:
        self._wake: Callable[[], None] | None = None

    def set(self, wake: Callable[[], None]) -> None:
        """Have transfers call ``wake``, from any thread, when the engine should take a step."""
        self._wake = wake

    def __call__(self) -> None:
        if self._wake is not None:
            self._wake()


wake_engine = EngineWaker()
