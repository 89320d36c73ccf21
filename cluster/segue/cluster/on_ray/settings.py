"""What a cluster on Ray is to be, and the processes that follow from it. No I/O."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from segue.base.errors import SettingsError
from segue.cluster.autoscaling.settings import AutoscalerSettings
from segue.cluster.cert_files import files_of
from segue.cluster.on_ray.process_actor import FILES, HOST, PARENT, PORT, ROLE, ActorSpec
from segue.cluster.pools import PoolName

NAMESPACE = "segue"
MANAGER = "manager"
ROUTER = "router"
FLEX = "flex"
# The name of a process's own certificate among its actor's files.
OWN_FILES = "own"
_SEGUE = (sys.executable, "-m", "segue.cli")


@dataclass(frozen=True, slots=True)
class CaPem:
    """A CA: certificate and key, each as PEM."""

    cert: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class RayPool:
    """``num_gpus`` may be a fraction; an engine of several devices takes several, all on one node, because vLLM's own
    processes (``distributed_executor_backend=mp``) share them. ``accelerator_type`` is one of Ray's names, such as
    ``H100``. ``resources`` are the cluster's own, by name; ``labels`` are what a node must have been started with, by
    name, as Ray's label selectors write it: ``spot``, ``!spot``, ``in(a,b)``.
    """

    workers: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    accelerator_type: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    extra_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingsError(f"a pool has {self.workers} workers, expected at least 1")

    def bundle(self) -> dict[str, float]:
        """What Ray is to reserve for one worker, on one node."""
        bundle = {"CPU": self.num_cpus, **self.resources}
        if self.num_gpus:
            bundle["GPU"] = self.num_gpus
        if self.accelerator_type:
            # Ray's own name for a node's kind of accelerator: a little of it asks for such a node.
            bundle[f"accelerator_type:{self.accelerator_type}"] = 0.001
        return bundle


@dataclass(frozen=True, slots=True)
class RayWorker:
    """One worker, by its number in its pool; ``flex`` ones begin there, and are numbered by themselves."""

    pool: PoolName
    number: int
    flex: bool = False

    @property
    def name(self) -> str:
        return f"{FLEX if self.flex else self.pool}-{self.number}"


@dataclass(frozen=True, slots=True)
class RayCluster:
    """Ports are the router's and the manager's, on the head node. ``log_dir`` is a folder on each node.

    ``flex`` workers may turn from one pool to the other, on what Ray has reserved for each at its start; they begin in
    ``flex_start_as``.

    With a ``ca`` every link has TLS, and every process the certificate that the manager signs for it. Without one all
    is in plain text, which is refused where others could reach it unless ``insecure`` says that this is meant.
    """

    model: str
    log_dir: str
    prefill: RayPool = field(default_factory=RayPool)
    decode: RayPool = field(default_factory=RayPool)
    flex: RayPool | None = None
    flex_start_as: PoolName = "decode"
    port: int = 8000
    grpc_port: int = 9000
    worker_port: int = 9100
    pools_port: int = 9600
    router_args: tuple[str, ...] = ()
    worker_args: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    kv_cache_gib: float = 1.0
    drain_timeout_s: float = 60.0
    scaling: AutoscalerSettings | None = None
    ca: CaPem | None = None
    insecure: bool = False

    def pool(self, name: PoolName) -> RayPool:
        return self.prefill if name == "prefill" else self.decode

    def settings_of(self, worker: RayWorker) -> RayPool:
        """What a worker is given: a flex one keeps it in either pool."""
        return self.flex if worker.flex and self.flex is not None else self.pool(worker.pool)

    def workers_of(self, name: PoolName) -> int:
        """How many workers the pool begins with."""
        return self.pool(name).workers + (self.flex.workers if self.flex and self.flex_start_as == name else 0)


@dataclass(frozen=True, slots=True)
class RouterPorts:
    """Of the router that runs, on ``host``."""

    host: str
    http: int
    grpc: int
    worker: int


def router_spec(cluster: RayCluster, ports: RouterPorts, files: Mapping[str, str]) -> ActorSpec:
    """``files`` are its certificate, key and CA, under :data:`OWN_FILES`; empty: plain text."""
    argv = (
        *_SEGUE,
        "router",
        *("--host", ports.host, "--port", str(ports.http), "--grpc-port", str(ports.grpc)),
        *("--worker-host", ports.host, "--worker-port", str(ports.worker)),
        *_common(cluster),
        *_tls(cluster, files, public=True),
        *cluster.router_args,
    )
    return ActorSpec(ROUTER, argv, cluster.environment, cluster.log_dir, files=files)


def worker_spec(cluster: RayCluster, ports: RouterPorts, worker: RayWorker, files: Mapping[str, str]) -> ActorSpec:
    """``files`` as of the router."""
    settings = cluster.settings_of(worker)
    command = ("flex-worker", "--start-as", ROLE, "--port", PORT) if worker.flex else (f"{worker.pool}-worker",)
    argv = (
        *_SEGUE,
        *command,
        *("--router", f"{ports.host}:{ports.worker}", "--worker-id", worker.name, "--host", HOST),
        *("--kv-cache-gib", f"{cluster.kv_cache_gib:g}"),
        *_common(cluster),
        *_tls(cluster, files),
        *cluster.worker_args,
        *settings.extra_args,
    )
    cpus = None if settings.num_gpus else settings.num_cpus
    spec = ActorSpec(worker.name, argv, cluster.environment, cluster.log_dir, cpus, cluster.kv_cache_gib, files)
    return replace(spec, role=worker.pool) if worker.flex else spec


def actor_options(pool: RayPool) -> dict[str, Any]:
    """Ray's options of a worker's actor, its place aside: that is its placement group's, and so are labels."""
    options: dict[str, Any] = {"num_cpus": pool.num_cpus, "resources": dict(pool.resources)}
    if pool.num_gpus:
        options["num_gpus"] = pool.num_gpus
    if pool.accelerator_type:
        options["accelerator_type"] = pool.accelerator_type
    return options


def _common(cluster: RayCluster) -> tuple[str, ...]:
    drain_timeout = f"{cluster.drain_timeout_s:g}"
    return ("--model", cluster.model, "--drain-timeout", drain_timeout, "--die-with-parent", PARENT)


def _tls(cluster: RayCluster, files: Mapping[str, str], *, public: bool = False) -> tuple[str, ...]:
    if not files:
        return ("--insecure",) if cluster.insecure else ()
    own = files_of(Path(FILES), OWN_FILES)
    mesh = ("--tls-cert", own.cert, "--tls-key", own.key, "--tls-ca", own.ca)
    return (*mesh, "--public-tls-cert", own.cert, "--public-tls-key", own.key) if public else mesh
