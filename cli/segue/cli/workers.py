"""``segue prefill-worker`` and ``segue decode-worker``: the same options, two roles."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from segue.base.process import exit_now
from segue.cli.failures import settings_errors
from segue.cli.model import model_and_served_name
from segue.cli.options import (
    DieWithParent,
    DrainTimeout,
    EngineArg,
    EngineKind,
    Insecure,
    KvCacheGib,
    KvDigest,
    LogFormat,
    LogFormatOption,
    MetricsHost,
    MetricsPort,
    Model,
    OtlpEndpoint,
    SimulatedGpu,
    SimulatedModel,
    SimulatedSpeed,
    TlsCa,
    TlsCert,
    TlsKey,
    Transport,
    TransportOption,
    parse_engine_args,
    simulated_args,
    start_process,
    tls_files,
)

if TYPE_CHECKING:
    from segue.base.tls import TlsFiles
    from segue.worker.settings import WorkerSettings

Routers = Annotated[
    list[str], typer.Option("--router", metavar="HOST:PORT", help="A router's worker port. Repeatable.")
]
Host = Annotated[str, typer.Option(help="Address to listen on, and that peers dial.")]
Port = Annotated[int, typer.Option(help="gRPC of this worker; 0 chooses a free one.")]
WorkerId = Annotated[str | None, typer.Option(help="Name in the pool. Default: made of the host's name.")]
Engine = Annotated[
    EngineKind,
    typer.Option(
        help="inproc: one process, one thread. async: vLLM's AsyncLLM. auto: by platform. simulated: no model, only "
        "its timing."
    ),
]


KvPort = Annotated[int, typer.Option(help="KV transfer of this worker; 0 chooses a free one.")]
AdvertiseKv = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT", help="Where other workers reach our KV transfer, if not where it listens: NAT, a proxy."
    ),
]
KvDigestOption = Annotated[
    KvDigest,
    typer.Option("--kv-digest", help="Blocks that NIXL moved and whose digests are compared; over gRPC all are."),
]
Lease = Annotated[float, typer.Option(min=0.1, help="Seconds that offered KV blocks wait to be claimed.")]


def prefill_worker(
    router: Routers,
    model: Model = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    kv_port: KvPort = 0,
    advertise_kv: AdvertiseKv = "",
    worker_id: WorkerId = None,
    transport: TransportOption = Transport.auto,
    kv_digest: KvDigestOption = KvDigest.sampled,
    engine: Engine = EngineKind.auto,
    engine_arg: EngineArg = [],  # noqa: B006 - typer copies it
    simulated_gpu: SimulatedGpu = "",
    simulated_model: SimulatedModel = "",
    simulated_speed: SimulatedSpeed = None,
    kv_cache_gib: KvCacheGib = 1.0,
    lease: Lease = 30.0,
    drain_timeout: DrainTimeout = 60.0,
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    tls_ca: TlsCa = "",
    insecure: Insecure = False,
    metrics_host: MetricsHost = "127.0.0.1",
    metrics_port: MetricsPort = None,
    otlp_endpoint: OtlpEndpoint = "",
    log_format: LogFormatOption = LogFormat.auto,
    die_with_parent: DieWithParent = 0,
) -> None:
    """Run one prefill worker: it reads prompts, samples the first token and offers the KV cache."""
    start_process(die_with_parent)
    with settings_errors():
        from segue.prefill_worker.main import run

        settings = worker_settings(
            router=router,
            model=model,
            host=host,
            port=port,
            kv_port=kv_port,
            advertise_kv=advertise_kv,
            worker_id=worker_id,
            transport=transport,
            kv_digest=kv_digest,
            engine=engine,
            engine_arg=[*simulated_args(engine, simulated_gpu, simulated_model, simulated_speed), *engine_arg],
            kv_cache_gib=kv_cache_gib,
            lease=lease,
            drain_timeout=drain_timeout,
            tls=tls_files(tls_cert, tls_key, tls_ca),
            insecure=insecure,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            otlp_endpoint=otlp_endpoint,
            log_format=log_format,
        )
        exit_now(run(settings))


def decode_worker(
    router: Routers,
    model: Model = None,
    host: Host = "127.0.0.1",
    port: Port = 0,
    kv_port: KvPort = 0,
    advertise_kv: AdvertiseKv = "",
    worker_id: WorkerId = None,
    transport: TransportOption = Transport.auto,
    kv_digest: KvDigestOption = KvDigest.sampled,
    engine: Engine = EngineKind.auto,
    engine_arg: EngineArg = [],  # noqa: B006 - typer copies it
    simulated_gpu: SimulatedGpu = "",
    simulated_model: SimulatedModel = "",
    simulated_speed: SimulatedSpeed = None,
    kv_cache_gib: KvCacheGib = 1.0,
    lease: Lease = 30.0,
    drain_timeout: DrainTimeout = 60.0,
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    tls_ca: TlsCa = "",
    insecure: Insecure = False,
    metrics_host: MetricsHost = "127.0.0.1",
    metrics_port: MetricsPort = None,
    otlp_endpoint: OtlpEndpoint = "",
    log_format: LogFormatOption = LogFormat.auto,
    die_with_parent: DieWithParent = 0,
) -> None:
    """Run one decode worker: it takes over KV caches and generates the remaining tokens."""
    start_process(die_with_parent)
    with settings_errors():
        from segue.decode_worker.main import run

        settings = worker_settings(
            router=router,
            model=model,
            host=host,
            port=port,
            kv_port=kv_port,
            advertise_kv=advertise_kv,
            worker_id=worker_id,
            transport=transport,
            kv_digest=kv_digest,
            engine=engine,
            engine_arg=[*simulated_args(engine, simulated_gpu, simulated_model, simulated_speed), *engine_arg],
            kv_cache_gib=kv_cache_gib,
            lease=lease,
            drain_timeout=drain_timeout,
            tls=tls_files(tls_cert, tls_key, tls_ca),
            insecure=insecure,
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            otlp_endpoint=otlp_endpoint,
            log_format=log_format,
        )
        exit_now(run(settings))


def worker_settings(
    *,
    router: list[str],
    model: str | None,
    host: str,
    port: int,
    kv_port: int,
    advertise_kv: str,
    worker_id: str | None,
    transport: Transport,
    kv_digest: KvDigest,
    engine: EngineKind,
    engine_arg: list[str],
    kv_cache_gib: float,
    lease: float,
    drain_timeout: float,
    tls: TlsFiles | None,
    insecure: bool,
    metrics_host: str,
    metrics_port: int | None,
    otlp_endpoint: str,
    log_format: LogFormat,
) -> WorkerSettings:
    from segue.worker.settings import WorkerSettings

    path, _ = model_and_served_name(model, None)
    settings = WorkerSettings(
        model=path,
        routers=tuple(router),
        host=host,
        port=port,
        kv_port=kv_port,
        advertise_kv=advertise_kv,
        transport=transport.value,
        kv_digest=kv_digest.value,
        engine=engine.value,
        engine_args=parse_engine_args(engine_arg),
        kv_cache_gib=kv_cache_gib,
        lease_s=lease,
        drain_timeout_s=drain_timeout,
        tls=tls,
        insecure=insecure,
        metrics_host=metrics_host,
        metrics_port=metrics_port,
        otlp_endpoint=otlp_endpoint,
        log_format=log_format.value,
    )
    # Without a name given, the settings' own default is it.
    return settings if worker_id is None else settings.model_copy(update={"worker_id": worker_id})
