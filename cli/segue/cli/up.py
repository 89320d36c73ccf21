"""``segue up``."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from segue.cli.failures import settings_errors
from segue.cli.model import model_and_served_name
from segue.cli.on_ray import Address, RayPoolOption, ca_of, gpus_each, ray_pool, up_on_ray
from segue.cli.options import (
    ApiKeys,
    DeathPolicy,
    DeviceChoice,
    DisaggregationChoice,
    DisaggregationOption,
    DrainTimeout,
    EngineArg,
    EngineKind,
    Insecure,
    KvCacheGib,
    LimitOption,
    MaxQueue,
    MaxStall,
    Model,
    OtlpEndpoint,
    Prices,
    RouterProcesses,
    RoutingChoice,
    RoutingOption,
    ServedName,
    SimulatedGpu,
    SimulatedModel,
    SimulatedSpeed,
    SloClassOption,
    TenantWeight,
    Transport,
    TransportOption,
    UsageLog,
    as_flags,
    parse_engine_args,
    parse_limits,
    simulated_args,
)
from segue.cli.scaling_options import GpuBudget, ScalingChoice, ScalingOption, ScalingSetting, scaling_settings
from segue.cli.workers import Pool

# On Ray's head node, where nobody looks for free ports.
RAY_HTTP_PORT, RAY_GRPC_PORT, RAY_WORKER_PORT, RAY_POOLS_PORT = 8000, 9000, 9100, 9600

Log = Annotated[Path | None, typer.Option("--log-dir", help="Where the log files go. Default: a new one.")]
Startup = Annotated[float, typer.Option("--startup-timeout", min=1, help="Seconds until every engine must be ready.")]


def up(
    prefill: Annotated[int, typer.Option(min=1, help="Prefill workers.")] = 1,
    decode: Annotated[int, typer.Option(min=1, help="Decode workers.")] = 1,
    flex: Annotated[int, typer.Option(min=0, help="Workers that segue turn has change between the pools.")] = 0,
    flex_start_as: Annotated[Pool, typer.Option(help="The pool that they begin in.")] = Pool.decode,
    model: Model = None,
    served_model_name: ServedName = None,
    transport: TransportOption = Transport.auto,
    host: Annotated[str, typer.Option(help="Address the router listens on for clients.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="OpenAI-compatible HTTP; 0 chooses a free one.")] = 0,
    grpc_port: Annotated[int, typer.Option(help="Public gRPC; 0 chooses a free one.")] = 0,
    pools_port: Annotated[
        int, typer.Option(help="Where segue scale reaches the pools, on this machine only; 0 chooses a free one.")
    ] = 0,
    worker_port: Annotated[int, typer.Option(help="With Ray: where workers reach the router.")] = RAY_WORKER_PORT,
    device: Annotated[DeviceChoice, typer.Option(help="auto: GPUs if there are any.")] = DeviceChoice.auto,
    engine: Annotated[EngineKind, typer.Option(help="As for the workers.")] = EngineKind.auto,
    engine_arg: EngineArg = [],  # noqa: B006 - typer copies it
    prefill_engine_arg: Annotated[list[str], typer.Option(help="As --engine-arg, prefill only.")] = [],  # noqa: B006
    decode_engine_arg: Annotated[list[str], typer.Option(help="As --engine-arg, decode only.")] = [],  # noqa: B006
    flex_engine_arg: Annotated[list[str], typer.Option(help="As --engine-arg, flex only.")] = [],  # noqa: B006
    simulated_gpu: SimulatedGpu = "",
    simulated_model: SimulatedModel = "",
    simulated_speed: SimulatedSpeed = None,
    kv_cache_gib: KvCacheGib = 1.0,
    max_queue_s: MaxQueue = 5.0,
    routing: RoutingOption = RoutingChoice.kv,
    disaggregation: DisaggregationOption = DisaggregationChoice.auto,
    max_stall_s: MaxStall = 0.033,
    slo_class: SloClassOption = [],  # noqa: B006
    tenant_weight: TenantWeight = [],  # noqa: B006
    prices: Prices = None,
    usage_log: UsageLog = None,
    limit: LimitOption = [],  # noqa: B006
    scaling: ScalingOption = ScalingChoice.off,
    gpu_budget: GpuBudget = 0,
    scaling_setting: ScalingSetting = [],  # noqa: B006
    drain_timeout: DrainTimeout = 10.0,
    processes: RouterProcesses = 1,
    on_death: Annotated[
        DeathPolicy, typer.Option(help="When a process dies: end the cluster, or restart it.")
    ] = DeathPolicy.exit,
    certs: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="TLS on every link, with certificates as segue certs DIR makes them."),
    ] = None,
    api_keys: ApiKeys = None,
    insecure: Insecure = False,
    worker_metrics: Annotated[
        bool, typer.Option("--worker-metrics", help="GET /metrics of each worker on a free port, which its log names.")
    ] = False,
    otlp_endpoint: OtlpEndpoint = "",
    log_dir: Log = None,
    startup_timeout: Startup = 300.0,
    ray: Annotated[bool, typer.Option("--ray", help="On a Ray cluster, until segue down; see docs/ray.md.")] = False,
    address: Address = "auto",
    prefill_ray: RayPoolOption = [],  # noqa: B006
    decode_ray: RayPoolOption = [],  # noqa: B006
    flex_ray: RayPoolOption = [],  # noqa: B006
) -> None:
    """Run a cluster on this machine until Ctrl-C: a router, prefill workers and decode workers."""
    from rich.console import Console

    from segue.base.errors import SettingsError
    from segue.cli.running import Run, new_run_dir, run_cluster
    from segue.cluster.environment import choose_device
    from segue.cluster.local import FlexSettings, LocalCluster, PoolSettings, cuda_engine_installed, this_machine
    from segue.cluster.local_certs import check_certs
    from segue.cluster.ports import choose_ports
    from segue.cluster.restarts import RestartPolicy

    engine_arg = [*simulated_args(engine, simulated_gpu, simulated_model, simulated_speed), *engine_arg]
    pools = {"--prefill-engine-arg": prefill_engine_arg, "--decode-engine-arg": decode_engine_arg}
    if flex:
        pools["--flex-engine-arg"] = flex_engine_arg
    for option, own in pools.items():
        # Said here once rather than in every worker's log.
        parse_engine_args(engine_arg, "--engine-arg")
        parse_limits(limit)
        parse_engine_args([*engine_arg, *own], option)
    with settings_errors():
        scaler = scaling_settings(
            scaling, gpu_budget, scaling_setting, gpus_each(prefill_ray, decode_ray) if ray else {}
        )
        simulated = ""
        if engine is EngineKind.simulated:
            from segue.engine.simulated.settings import simulation_settings

            gpus = [simulation_settings(parse_engine_args([*engine_arg, *own])).gpu for own in pools.values()]
            simulated = f"simulated {' and '.join(dict.fromkeys(gpus))}"
        path, name = model_and_served_name(model, served_model_name)
        router_args = (
            *("--served-model-name", name, "--max-queue-s", f"{max_queue_s:g}"),
            *("--routing", routing.value),
            *("--disaggregation", disaggregation.value, "--max-stall-s", f"{max_stall_s:g}"),
            *as_flags("--slo-class", slo_class),
            *as_flags("--tenant-weight", tenant_weight),
            *(() if prices is None else ("--prices", str(prices))),
            *(() if usage_log is None else ("--usage-log", str(usage_log))),
            *as_flags("--limit", limit),
            *_access(api_keys, insecure),
            *_otlp(otlp_endpoint),
        )
        worker_args = (
            *("--transport", transport.value, "--engine", engine.value),
            *as_flags("--engine-arg", engine_arg),
            *(("--metrics-port", "0") if worker_metrics else ()),
            *_otlp(otlp_endpoint),
        )
        prefill_args = as_flags("--engine-arg", prefill_engine_arg)
        decode_args = as_flags("--engine-arg", decode_engine_arg)
        flex_args = as_flags("--engine-arg", flex_engine_arg)
        if ray:
            if processes > 1:
                raise SettingsError(
                    f"--processes is {processes}, and on Ray the router is one process; run further routers apart"
                )
            from segue.cluster.on_ray.settings import RayCluster

            on_ray = RayCluster(
                model=path,
                log_dir=str(log_dir or "/tmp/segue-ray"),
                prefill=ray_pool(prefill, prefill_ray, "--prefill-ray", prefill_args),
                decode=ray_pool(decode, decode_ray, "--decode-ray", decode_args),
                flex=ray_pool(flex, flex_ray, "--flex-ray", flex_args) if flex else None,
                flex_start_as=flex_start_as.value,
                router_args=router_args,
                worker_args=worker_args,
                kv_cache_gib=kv_cache_gib,
                drain_timeout_s=drain_timeout,
                port=port or RAY_HTTP_PORT,
                grpc_port=grpc_port or RAY_GRPC_PORT,
                worker_port=worker_port,
                pools_port=pools_port or RAY_POOLS_PORT,
                scaling=scaler,
                ca=ca_of(certs, insecure=insecure),
                insecure=insecure,
            )
            up_on_ray(on_ray, address, name)
            return
        cluster = LocalCluster(
            model=path,
            run_dir=new_run_dir(log_dir),
            ports=choose_ports(host, port, grpc_port, processes),
            device=choose_device(device.value, this_machine().gpus, cuda_engine_installed()),
            host=host,
            prefill=PoolSettings(prefill, prefill_args),
            decode=PoolSettings(decode, decode_args),
            flex=FlexSettings(flex, flex_start_as.value, flex_args),
            certs=certs,
            router_args=router_args,
            router_processes=processes,
            worker_args=worker_args,
            kv_cache_gib=kv_cache_gib,
            drain_timeout_s=drain_timeout,
        )
        check_certs(cluster)
    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    numbers = (
        f"{prefill} prefill and {decode} decode" if not flex else f"{prefill} prefill, {decode} decode, {flex} flex"
    )
    say(f"model {path}, {numbers} worker(s) on {simulated or cluster.device}")
    say(f"log files in {cluster.run_dir}")

    async def serve() -> None:
        say(f"ready: {cluster.http_url}/v1 (model {name}), gRPC {host}:{cluster.ports.grpc}. Ctrl-C stops it.")
        for line in () if scaling is ScalingChoice.act else _by_hand(flex, flex_start_as):
            say(line)
        await asyncio.Event().wait()

    run_cluster(Run(cluster, RestartPolicy(on_death.value), startup_timeout, pools_port, scaler), console, serve)
    say("stopped")


def _by_hand(flex: int, flex_start_as: Pool) -> Iterator[str]:
    yield "segue scale prefill=2 decode=2 changes how many workers there are"
    if flex:
        other = "prefill" if flex_start_as is Pool.decode else "decode"
        yield f"segue turn flex-0 {other} has that worker change pools"


def _otlp(endpoint: str) -> tuple[str, ...]:
    return ("--otlp-endpoint", endpoint) if endpoint else ()


def _access(api_keys: Path | None, insecure: bool) -> tuple[str, ...]:
    keys = () if api_keys is None else ("--api-keys", str(api_keys))
    return (*keys, *(("--insecure",) if insecure else ()))
