"""What the router process is told at start."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from segue.base.ids import new_epoch
from segue.base.logging import LogFormat
from segue.base.tls import TlsFiles
from segue.router.limits import Limits
from segue.router.planning.disaggregation import DEFAULT_MOST_STALL_S, Mode
from segue.router.planning.planner import Routing
from segue.router.prefixes.prefix_index import DEFAULT_MOST_BLOCKS
from segue.router.queueing.slo import DEFAULT_CLASSES, SloClasses
from segue.router.queueing.waiting import QueueBounds


class RouterSettings(BaseModel):
    """One router. Unknown fields are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    model: str = Field(description="Local directory or hub id; only its tokenizer and configuration are read.")
    served_model_name: str = Field("", description="Name clients use; empty: the model's own.")
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535, description="OpenAI HTTP; 0 is any free port.")
    grpc_port: int = Field(9000, ge=0, le=65535, description="Public gRPC.")
    worker_host: str = Field("127.0.0.1", description="Address on which workers reach the router.")
    worker_port: int = Field(9100, ge=0, le=65535, description="Workers attach here; keep it away from clients.")
    scaler_port: int = Field(
        0, ge=0, le=65535, description="KEDA's external scaler, on the workers' address; 0 is none."
    )
    metrics_host: str = Field("127.0.0.1", description="Address of --metrics-port; what it tells takes no key.")
    metrics_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="GET /metrics on a port of its own; 0 is any free one. None: on the HTTP port, behind its keys.",
    )
    otlp_endpoint: str = Field("", description="URL of a collector's OTLP over gRPC, for spans; empty: none.")
    trace_ratio: float = Field(
        1.0, ge=0, le=1, description="Of the requests whose client has not decided, how many are traced."
    )
    worker_lease_s: float = Field(5.0, gt=1, description="A worker unheard of for this long is dropped.")
    max_concurrent_requests: int = Field(1024, ge=1, description="Beyond it, requests are refused with 429.")
    max_queue_s: float = Field(
        5.0, gt=0, description="Requests that would wait longer for the cluster are refused with 429."
    )
    routing: Routing = Field(
        "kv", description="kv: prefix caches weigh too; load: they don't; round-robin: nothing does."
    )
    disaggregation: Mode = Field(
        "auto", description="auto: decode computes a prompt itself where that is faster and harmless; always, never."
    )
    max_stall_s: float = Field(
        DEFAULT_MOST_STALL_S, ge=0, description="In auto: how long a prompt on decode may hold up the streams there."
    )
    prefix_index_blocks: int = Field(
        DEFAULT_MOST_BLOCKS, ge=1024, description="KV cache blocks that the router remembers, some 25 bytes each."
    )
    slo_classes: SloClasses = Field(
        DEFAULT_CLASSES, description="What requests may be promised; the first is the default."
    )
    max_queued_requests: int = Field(
        0, ge=0, description="Requests of one class that may wait; 0: half of max_concurrent_requests."
    )
    max_queued_tokens: int = Field(4 * 1024 * 1024, ge=1, description="Prompt tokens of one class that may wait.")
    tenant_weights: dict[str, float] = Field({}, description="Tenants' shares when requests wait; others have 1.")
    prices_file: Path | None = Field(None, description="What tokens cost, as TOML or JSON.")
    usage_log: Path | None = Field(None, description="Gets a JSON line for each request.")
    max_continuations: int = Field(3, ge=0, description="How often one answer goes on after it lost a worker.")
    continuation_patience_s: float = Field(
        10.0, ge=0, description="Seconds an interrupted answer waits for a pool that has no worker."
    )
    default_timeout_s: float = Field(600.0, gt=0, description="Deadline of requests that bring none.")
    limits: Limits = Field(Limits(), description="Bounds on one request; the default timeout is a setting of its own.")
    drain_timeout_s: float = Field(30.0, ge=0, description="Seconds that running requests get at shutdown.")
    tls: TlsFiles | None = Field(None, description="For the workers' port: our certificate and the mesh's CA.")
    public_tls: TlsFiles | None = Field(
        None, description="For HTTP and public gRPC; with a CA, clients must show a certificate that it has signed."
    )
    insecure: bool = Field(False, description="Listen in plain text where others than this machine reach us.")
    api_keys_file: Path | None = Field(None, description="Hashed API keys; read again when it changes.")
    api_keys: str = Field("", repr=False, description="More of them, in the file's form.")
    processes: int = Field(1, ge=1, le=64, description="Router processes that share the public ports.")
    process: int = Field(0, ge=0, description="Which of them this is; its workers' port is that many further on.")
    router_id: str = Field(default_factory=lambda: "router-" + new_epoch()[:6])
    log_requests: bool = Field(False, description="Log a line for every request that is over, not only for failures.")
    log_format: LogFormat = "auto"

    @property
    def queue_bounds(self) -> QueueBounds:
        """Of the requests that wait for a worker."""
        requests = self.max_queued_requests or max(1, self.max_concurrent_requests // 2)
        return QueueBounds(requests, self.max_queued_tokens, weights=self.tenant_weights)

    @property
    def model_name(self) -> str:
        return self.served_model_name or self.model.rstrip("/").rsplit("/", 1)[-1]

    @property
    def worker_ports(self) -> tuple[int, ...]:
        """Where each process listens for workers; empty where there is one."""
        if self.processes == 1:
            return ()
        return tuple(self.worker_port + number for number in range(self.processes))

    @property
    def own_worker_port(self) -> int:
        """This process's."""
        return self.worker_port + self.process

    def for_process(self) -> RouterSettings:
        """With a name and ports of its own for what isn't shared."""
        if self.processes == 1:
            return self
        metrics = self.metrics_port + self.process if self.metrics_port else self.metrics_port  # 0 is any free one.
        return self.model_copy(
            update={
                "metrics_port": metrics,
                "scaler_port": self.scaler_port if self.process == 0 else 0,
                "router_id": f"{self.router_id}-{self.process}",
            }
        )
