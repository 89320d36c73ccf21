"""``segue flex-worker``: the options of the other workers, and both roles."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from segue.base.process import exit_now
from segue.cli.failures import settings_errors
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
    simulated_args,
    start_process,
    tls_files,
)
from segue.cli.workers import (
    AdvertiseKv,
    Engine,
    Host,
    KvDigestOption,
    KvPort,
    Lease,
    Port,
    Routers,
    WorkerId,
    worker_settings,
)


class Pool(StrEnum):
    """The pools that a flex worker turns between."""

    prefill = "prefill"
    decode = "decode"


def flex_worker(
    start_as: Annotated[Pool, typer.Option(help="The role that it begins in.")],
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
    """Run one worker that begins in one role and turns to the other when told, with its model as it is."""
    start_process(die_with_parent)
    with settings_errors():
        from segue.decode_worker.role import DecodeRole
        from segue.prefill_worker.role import PrefillRole
        from segue.worker.main import run_worker

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
        prefill, decode = PrefillRole(), DecodeRole()
        if start_as is Pool.prefill:
            exit_now(run_worker(settings, prefill, turns_to=decode))
        exit_now(run_worker(settings, decode, turns_to=prefill))
