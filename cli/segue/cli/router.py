"""``segue router``."""

from __future__ import annotations

import os
import signal
import sys
from typing import Annotated

import typer

from segue.cli.failures import settings_errors
from segue.cli.model import model_and_served_name
from segue.cli.options import (
    ApiKeys,
    DieWithParent,
    DisaggregationChoice,
    DisaggregationOption,
    DrainTimeout,
    Insecure,
    LimitOption,
    LogFormat,
    LogFormatOption,
    MaxQueue,
    MaxStall,
    MetricsHost,
    MetricsPort,
    Model,
    OtlpEndpoint,
    Prices,
    RouterProcesses,
    RoutingChoice,
    RoutingOption,
    ServedName,
    SloClassOption,
    TenantWeight,
    TlsCa,
    TlsCert,
    TlsKey,
    UsageLog,
    parse_limits,
    parse_tenant_weights,
    start_process,
    tls_files,
)


def router(
    host: Annotated[str, typer.Option(help="Address to listen on for clients.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="OpenAI-compatible HTTP.")] = 8000,
    grpc_port: Annotated[int, typer.Option(help="Public gRPC.")] = 9000,
    worker_host: Annotated[str, typer.Option(help="Address to listen on for workers.")] = "127.0.0.1",
    worker_port: Annotated[int, typer.Option(help="gRPC that workers dial; keep it from clients.")] = 9100,
    scaler_port: Annotated[int, typer.Option(help="KEDA's external scaler; 0 serves none.")] = 0,
    model: Model = None,
    served_model_name: ServedName = None,
    worker_lease: Annotated[float, typer.Option(help="Seconds without a word after which a worker is dropped.")] = 5.0,
    max_concurrent_requests: Annotated[int, typer.Option(help="Beyond it, requests get a 429.")] = 1024,
    max_queue_s: MaxQueue = 5.0,
    routing: RoutingOption = RoutingChoice.kv,
    disaggregation: DisaggregationOption = DisaggregationChoice.auto,
    max_stall_s: MaxStall = 0.033,
    prefix_index_blocks: Annotated[
        int, typer.Option(min=1024, help="KV cache blocks the router remembers, at some 25 bytes each.")
    ] = 4_000_000,
    slo_class: SloClassOption = [],  # noqa: B006 - typer copies it
    max_queued_requests: Annotated[
        int, typer.Option(min=0, help="Requests of one class that may wait. 0: half of --max-concurrent-requests.")
    ] = 0,
    max_queued_tokens: Annotated[int, typer.Option(min=1, help="Prompt tokens of one class that may wait.")] = 4194304,
    tenant_weight: TenantWeight = [],  # noqa: B006
    prices: Prices = None,
    usage_log: UsageLog = None,
    limit: LimitOption = [],  # noqa: B006
    max_continuations: Annotated[
        int, typer.Option(min=0, help="How often one answer goes on elsewhere after it lost a worker.")
    ] = 3,
    continuation_patience_s: Annotated[
        float, typer.Option("--continuation-patience-s", min=0, help="How long it waits for a pool with no worker.")
    ] = 10.0,
    default_timeout: Annotated[float, typer.Option(help="Seconds for requests that bring no deadline.")] = 600.0,
    drain_timeout: DrainTimeout = 30.0,
    tls_cert: TlsCert = "",
    tls_key: TlsKey = "",
    tls_ca: TlsCa = "",
    public_tls_cert: Annotated[str, typer.Option(metavar="FILE", help="Certificate for clients, PEM.")] = "",
    public_tls_key: Annotated[str, typer.Option(metavar="FILE", help="Its key.")] = "",
    public_tls_ca: Annotated[
        str, typer.Option(metavar="FILE", help="Clients must show a certificate of this CA. Default: they need none.")
    ] = "",
    api_keys: ApiKeys = None,
    insecure: Insecure = False,
    metrics_host: MetricsHost = "127.0.0.1",
    metrics_port: MetricsPort = None,
    otlp_endpoint: OtlpEndpoint = "",
    trace_ratio: Annotated[
        float, typer.Option(min=0, max=1, help="Of requests that bring no trace context, how many are traced.")
    ] = 1.0,
    log_requests: Annotated[
        bool, typer.Option("--log-requests", help="A log line for every request, not only for failures.")
    ] = False,
    log_format: LogFormatOption = LogFormat.auto,
    processes: RouterProcesses = 1,
    process: Annotated[int, typer.Option(hidden=True, help="Which of them this is.")] = -1,
    die_with_parent: DieWithParent = 0,
) -> None:
    """Run one router: the front door for clients and the place where workers register."""
    start_process(die_with_parent)
    with settings_errors():
        if processes > 1 and process < 0:
            from segue.cluster.router_processes import check_shared_ports, run_router_processes

            check_shared_ports(host, (("--port", port), ("--grpc-port", grpc_port)))
            check_shared_ports(worker_host, [("--worker-port", worker_port + number) for number in range(processes)])
            # With a usage log it means: open that anew. Without, a terminal has gone, which ends us.
            passed_on = (signal.SIGHUP,) if usage_log is not None else ()
            raise typer.Exit(run_router_processes(sys.argv[1:], processes, passed_on))
        from segue.router.main import run
        from segue.router.queueing.slo import parse_slo_classes
        from segue.router.settings import RouterSettings

        path, name = model_and_served_name(model, served_model_name)
        settings = RouterSettings(
            model=path,
            served_model_name=name,
            host=host,
            port=port,
            grpc_port=grpc_port,
            worker_host=worker_host,
            worker_port=worker_port,
            scaler_port=scaler_port,
            worker_lease_s=worker_lease,
            max_concurrent_requests=max_concurrent_requests,
            max_queue_s=max_queue_s,
            routing=routing.value,
            disaggregation=disaggregation.value,
            max_stall_s=max_stall_s,
            prefix_index_blocks=prefix_index_blocks,
            slo_classes=parse_slo_classes(slo_class),
            max_queued_requests=max_queued_requests,
            max_queued_tokens=max_queued_tokens,
            tenant_weights=parse_tenant_weights(tenant_weight),
            prices_file=prices,
            usage_log=usage_log,
            limits=parse_limits(limit),
            max_continuations=max_continuations,
            continuation_patience_s=continuation_patience_s,
            default_timeout_s=default_timeout,
            drain_timeout_s=drain_timeout,
            tls=tls_files(tls_cert, tls_key, tls_ca),
            public_tls=tls_files(public_tls_cert, public_tls_key, public_tls_ca),
            insecure=insecure,
            api_keys_file=api_keys,
            api_keys=os.environ.get("SEGUE_API_KEYS", ""),
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            otlp_endpoint=otlp_endpoint,
            trace_ratio=trace_ratio,
            log_requests=log_requests,
            log_format=log_format.value,
            processes=processes,
            process=max(process, 0),
        )
        raise typer.Exit(run(settings))
