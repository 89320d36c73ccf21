"""What a worker process is told at start."""

from __future__ import annotations

import socket
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from segue.base.ids import new_epoch
from segue.base.logging import LogFormat
from segue.base.tls import TlsFiles
from segue.engine.settings import EngineKind, EngineRole, EngineSettings, TransportChoice
from segue.kv_transfer.read_check import DigestMode


class WorkerSettings(BaseModel):
    """One worker. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Local directory or hub id, as vLLM takes it.")
    routers: tuple[str, ...] = Field(
        min_length=1,
        description="host:port of routers; a name that resolves to several addresses means them all.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; routers and other workers reach us there.")
    port: int = Field(0, ge=0, le=65535, description="Port of the worker's gRPC server; 0 is any free one.")
    kv_port: int = Field(0, ge=0, le=65535, description="Port of the engine's KvTransfer; 0 is any free one.")
    advertise_kv: str = Field(
        "",
        pattern=r"^(.+:\d+)?$",
        description="host:port at which other workers reach our KvTransfer, if it isn't where it listens: behind NAT, "
        "a proxy or a Kubernetes service.",
    )
    worker_id: str = Field(default_factory=lambda: f"{socket.gethostname()}-{new_epoch()[:6]}")
    transport: TransportChoice = "auto"
    kv_digest: DigestMode = Field(
        "sampled", description="How much of what NIXL moves is checked by digests; over gRPC everything is."
    )
    engine: EngineKind = "auto"
    engine_args: dict[str, Any] = Field(default_factory=dict, description="vLLM's EngineArgs.")
    kv_cache_gib: float = Field(1.0, gt=0)
    lease_s: float = Field(30.0, gt=0, description="Seconds that offered KV blocks wait to be claimed.")
    tls: TlsFiles | None = Field(None, description="Our certificate and the mesh's CA; None is plain text.")
    insecure: bool = Field(False, description="Listen in plain text where others than this machine reach us.")
    drain_timeout_s: float = Field(60.0, ge=0, description="Seconds a drain may take before what is left is dropped.")
    metrics_host: str = Field("127.0.0.1", description="Address of --metrics-port; what it tells takes no key.")
    metrics_port: int | None = Field(
        None, ge=0, le=65535, description="GET /metrics, plain HTTP; 0 is any free port. None: no metrics."
    )
    otlp_endpoint: str = Field("", description="URL of a collector's OTLP over gRPC, for spans; empty: none.")
    log_format: LogFormat = "auto"

    @field_validator("routers")
    @classmethod
    def _are_addresses(cls, routers: tuple[str, ...]) -> tuple[str, ...]:
        for name in routers:
            host, _, port = name.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) <= 65535:
                raise ValueError("expected host:port, the port that the router takes workers on")
        return routers

    def engine_settings(self, role: EngineRole, epoch: str, flex: bool = False) -> EngineSettings:
        return EngineSettings(
            model=self.model,
            role=role,
            flex=flex,
            kind=self.engine,
            transport=self.transport,
            engine_args=self.engine_args,
            kv_cache_gib=self.kv_cache_gib,
            lease_s=self.lease_s,
            kv_digest=self.kv_digest,
            worker_id=self.worker_id,
            epoch=epoch,
            host=self.host,
            kv_port=self.kv_port,
            advertise_kv=self.advertise_kv,
            tls=self.tls,
        )
