"""What a cluster on Ray is to be, and the processes that follow from it. No I/O."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from segue.base.errors import SettingsError
from segue.cluster.autoscaling.settings import AutoscalerSettings
from segue.cluster.on_ray.process_actor import HOST, PARENT, ActorSpec
from segue.cluster.pools import PoolName

NAMESPACE = "segue"
MANAGER = "manager"
ROUTER = "router"
_SEGUE = (sys.executable, "-m", "segue.cli")


@dataclass(frozen=True, slots=True)
class RayPool:
    """``num_gpus`` may be a fraction; an engine of several devices takes several, all on one node, because vLLM's own
    processes (``distributed_executor_backend=mp``) share them. ``accelerator_type`` is one of Ray's names, such as
    ``H100``. ``resources`` are the cluster's own, by name.
    """

    workers: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    accelerator_type: str = ""
    resources: Mapping[str, float] = field(default_factory=dict)
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
class RayCluster:
    """Ports are the router's and the manager's, on the head node. ``log_dir`` is a folder on each node."""

    model: str
    log_dir: str
    prefill: RayPool = field(default_factory=RayPool)
    decode: RayPool = field(default_factory=RayPool)
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

    def pool(self, name: PoolName) -> RayPool:
        return self.prefill if name == "prefill" else self.decode


@dataclass(frozen=True, slots=True)
class RouterPorts:
    """Of the router that runs, on ``host``."""

    host: str
    http: int
    grpc: int
    worker: int


def router_spec(cluster: RayCluster, ports: RouterPorts) -> ActorSpec:
    argv = (
        *_SEGUE,
        "router",
        *("--host", ports.host, "--port", str(ports.http), "--grpc-port", str(ports.grpc)),
        *("--worker-host", ports.host, "--worker-port", str(ports.worker)),
        *_common(cluster),
        *cluster.router_args,
    )
    return ActorSpec(ROUTER, argv, cluster.environment, cluster.log_dir)


def worker_spec(cluster: RayCluster, ports: RouterPorts, pool: PoolName, name: str, share: int) -> ActorSpec:
    settings = cluster.pool(pool)
    argv = (
        *_SEGUE,
        f"{pool}-worker",
        *("--router", f"{ports.host}:{ports.worker}", "--worker-id", name, "--host", HOST),
        *("--kv-cache-gib", f"{cluster.kv_cache_gib:g}"),
        *_common(cluster),
        *cluster.worker_args,
        *settings.extra_args,
    )
    on_cpu = None if settings.num_gpus else share
    return ActorSpec(name, argv, cluster.environment, cluster.log_dir, on_cpu, cluster.kv_cache_gib)


def actor_options(pool: RayPool) -> dict[str, Any]:
    """Ray's options of a worker's actor, its place aside."""
    options: dict[str, Any] = {"num_cpus": pool.num_cpus, "resources": dict(pool.resources)}
    if pool.num_gpus:
        options["num_gpus"] = pool.num_gpus
    if pool.accelerator_type:
        options["accelerator_type"] = pool.accelerator_type
    return options


def _common(cluster: RayCluster) -> tuple[str, ...]:
    drain_timeout = f"{cluster.drain_timeout_s:g}"
    return ("--model", cluster.model, "--drain-timeout", drain_timeout, "--die-with-parent", PARENT)
