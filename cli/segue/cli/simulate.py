"""``segue simulate``: a router, and many simulated workers in few processes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

from segue.cli.failures import settings_errors
from segue.cli.model import model_and_served_name
from segue.cli.options import (
    DieWithParent,
    DrainTimeout,
    EngineArg,
    EngineKind,
    LimitOption,
    LogFormat,
    LogFormatOption,
    MaxQueue,
    Model,
    ServedName,
    SimulatedGpu,
    SimulatedModel,
    SimulatedSpeed,
    SloClassOption,
    as_flags,
    parse_engine_args,
    parse_limits,
    simulated_args,
    start_process,
)
from segue.cli.up import Log, Startup

PrefillEngineArg = Annotated[list[str], typer.Option(help="As --engine-arg, prefill only.")]
DecodeEngineArg = Annotated[list[str], typer.Option(help="As --engine-arg, decode only.")]


def simulate(
    prefill: Annotated[int, typer.Option(min=1, help="Prefill workers.")] = 2,
    decode: Annotated[int, typer.Option(min=1, help="Decode workers.")] = 2,
    processes: Annotated[int, typer.Option(min=1, max=64, help="That the workers share.")] = 1,
    model: Model = None,
    served_model_name: ServedName = None,
    simulated_gpu: SimulatedGpu = "",
    simulated_model: SimulatedModel = "",
    simulated_speed: SimulatedSpeed = None,
    engine_arg: EngineArg = [],  # noqa: B006 - typer copies it
    prefill_engine_arg: PrefillEngineArg = [],  # noqa: B006
    decode_engine_arg: DecodeEngineArg = [],  # noqa: B006
    port: Annotated[int, typer.Option(help="OpenAI-compatible HTTP; 0 chooses a free one.")] = 0,
    grpc_port: Annotated[int, typer.Option(help="Public gRPC; 0 chooses a free one.")] = 0,
    max_concurrent_requests: Annotated[int, typer.Option(help="Beyond it, requests get a 429.")] = 100_000,
    max_queue_s: MaxQueue = 60.0,
    slo_class: SloClassOption = [],  # noqa: B006
    limit: LimitOption = [],  # noqa: B006
    router_arg: Annotated[
        list[str], typer.Option("--router-arg", metavar="WORD", help="Handed on to segue router. Repeatable.")
    ] = [],  # noqa: B006
    drain_timeout: DrainTimeout = 10.0,
    log_dir: Log = None,
    startup_timeout: Startup = 300.0,
) -> None:
    """Run a cluster without a model until Ctrl-C: a real router, and workers that only take the time."""
    from rich.console import Console

    from segue.cli.running import Run, new_run_dir, run_cluster
    from segue.cluster.local import LocalCluster, PoolSettings
    from segue.cluster.ports import choose_ports
    from segue.cluster.restarts import RestartPolicy
    from segue.engine.simulated.settings import simulation_settings

    shared = [
        *simulated_args(EngineKind.simulated, simulated_gpu, simulated_model, simulated_speed),
        *engine_arg,
    ]
    parse_limits(limit)
    with settings_errors():
        pools = [
            simulation_settings(parse_engine_args([*shared, *own])) for own in (prefill_engine_arg, decode_engine_arg)
        ]
        path, name = model_and_served_name(model, served_model_name)
        cluster = LocalCluster(
            model=path,
            run_dir=new_run_dir(log_dir),
            ports=choose_ports("127.0.0.1", port, grpc_port),
            device="cpu",
            prefill=PoolSettings(prefill),
            decode=PoolSettings(decode),
            shared_processes=processes,
            router_args=(
                *("--served-model-name", name, "--max-queue-s", f"{max_queue_s:g}"),
                *("--max-concurrent-requests", str(max_concurrent_requests)),
                # Without classes of its own a simulation refuses for --max-queue-s alone.
                *as_flags("--slo-class", slo_class or [f"chat=ttft_s:{max_queue_s:g},tokens_per_s:30"]),
                *as_flags("--limit", limit),
                *router_arg,
            ),
            worker_args=(
                *as_flags("--engine-arg", shared),
                *as_flags("--prefill-engine-arg", prefill_engine_arg),
                *as_flags("--decode-engine-arg", decode_engine_arg),
            ),
            drain_timeout_s=drain_timeout,
        )
    console = Console()

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    gpus = " and ".join(dict.fromkeys(pool.gpu for pool in pools))
    say(
        f"simulated: {prefill} prefill and {decode} decode worker(s), {gpus}, in {processes} process(es); no model runs"
    )
    say(f"log files in {cluster.run_dir}")

    async def serve() -> None:
        say(f"ready: {cluster.http_url}/v1 (model {name}), gRPC {cluster.host}:{cluster.ports.grpc}. Ctrl-C stops it.")
        await asyncio.Event().wait()

    run_cluster(Run(cluster, RestartPolicy("exit"), startup_timeout), console, serve)
    say("stopped")


def simulated_workers(
    router: Annotated[list[str], typer.Option("--router", metavar="HOST:PORT", help="A router's worker port.")],
    prefill: Annotated[int, typer.Option(min=0, help="Prefill workers of all processes.")] = 1,
    decode: Annotated[int, typer.Option(min=0, help="Decode workers of all processes.")] = 1,
    part: Annotated[int, typer.Option(min=0, help="Which of the processes this is.")] = 0,
    parts: Annotated[int, typer.Option(min=1, help="How many there are.")] = 1,
    model: Model = None,
    engine_arg: EngineArg = [],  # noqa: B006 - typer copies it
    prefill_engine_arg: PrefillEngineArg = [],  # noqa: B006
    decode_engine_arg: DecodeEngineArg = [],  # noqa: B006
    drain_timeout: DrainTimeout = 10.0,
    log_format: LogFormatOption = LogFormat.auto,
    die_with_parent: DieWithParent = 0,
) -> None:
    """Run this process's share of a fleet of simulated workers."""
    start_process(die_with_parent)
    with settings_errors():
        from segue.cluster.simulated import Hosted, numbers_of, run_simulated_workers
        from segue.worker.settings import WorkerSettings

        path, _ = model_and_served_name(model, None)
        pools = (("prefill", prefill, prefill_engine_arg), ("decode", decode, decode_engine_arg))
        hosted = [
            Hosted(
                "prefill" if role == "prefill" else "decode",
                WorkerSettings(
                    model=path,
                    routers=tuple(router),
                    worker_id=f"{role}-{number}",
                    engine="simulated",
                    engine_args=parse_engine_args([*engine_arg, *own]),
                    drain_timeout_s=drain_timeout,
                    log_format=log_format.value,
                ),
            )
            for role, total, own in pools
            for number in numbers_of(total, part, parts)
        ]
        raise typer.Exit(run_simulated_workers(hosted, log_format.value))
