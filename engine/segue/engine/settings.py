"""What one engine is told at start."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from segue.base.tls import TlsFiles
from segue.kv_transfer.read_check import DigestMode

EngineKind = Literal["auto", "inproc", "async", "simulated"]
TransportChoice = Literal["auto", "nixl", "grpc"]
EngineRole = Literal["prefill", "decode"]


class EngineSettings(BaseModel):
    """One engine. ``engine_args`` are vLLM's own (``EngineArgs``) and override Segue's choices for the platform.

    Of a simulated engine they are :class:`~segue.engine.simulated.settings.SimulationSettings`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="Local directory or hub id, as vLLM takes it.")
    role: EngineRole
    flex: bool = Field(False, description="It may be told to take the other role.")
    kind: EngineKind = Field(
        "auto",
        description="inproc: one process, one thread. async: vLLM's AsyncLLM. simulated: no model, its timing only.",
    )
    transport: TransportChoice = "auto"
    engine_args: dict[str, Any] = Field(default_factory=dict)
    kv_cache_gib: float = Field(1.0, gt=0, description="Size of the paged cache on CPU; GPUs size their own.")
    kv_digest: DigestMode = Field(
        "sampled", description="How much of what NIXL moves is checked by digests; over gRPC everything is."
    )
    lease_s: float = Field(30.0, gt=0, description="Seconds that offered blocks wait to be claimed.")
    worker_id: str
    epoch: str
    tls: TlsFiles | None = Field(None, description="For KvTransfer; None is plain text. NIXL has no TLS.")
    host: str = Field("127.0.0.1", description="Where KvTransfer and NIXL's side channel listen.")
    kv_port: int = Field(0, description="Port of KvTransfer; 0 is any free one.")
    advertise_kv: str = Field(
        "", description="host:port of KvTransfer that goes into tickets; empty: where it listens."
    )
