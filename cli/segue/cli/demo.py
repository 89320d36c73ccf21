"""``segue demo``: a cluster, one prompt, its tokens as they come, where the time went."""

from __future__ import annotations

import os
import shutil
from typing import Annotated

import typer

from segue.cli.failures import fail, settings_errors
from segue.cli.model import model_and_served_name
from segue.cli.options import DeviceChoice, KvCacheGib, Model, Transport, TransportOption
from segue.cli.up import Startup

_PROMPT = "Prefill reads the prompt; decode writes the answer. The KV cache is what passes between them, and"


def demo(
    prompt: Annotated[str, typer.Option(help="What to send.")] = _PROMPT,
    max_tokens: Annotated[int, typer.Option(min=1, help="How many tokens to ask for.")] = 48,
    transport: TransportOption = Transport.auto,
    model: Model = None,
    device: Annotated[DeviceChoice, typer.Option(help="auto: GPUs if there are any.")] = DeviceChoice.auto,
    kv_cache_gib: KvCacheGib = 1.0,
    startup_timeout: Startup = 300.0,
) -> None:
    """Start a router, a prefill worker and a decode worker, answer one prompt, and stop everything."""
    from rich.console import Console

    from segue.cli.completion import Completion, CompletionError, stream_completion
    from segue.cli.running import Run, new_run_dir, run_cluster
    from segue.cluster.environment import choose_device
    from segue.cluster.local import LocalCluster, cuda_engine_installed, this_machine
    from segue.cluster.ports import choose_ports
    from segue.cluster.restarts import RestartPolicy

    console = Console()

    def say(line: str, style: str | None = None, end: str = "\n") -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True, style=style, end=end)

    with settings_errors():
        path, name = model_and_served_name(model, None)
        cluster = LocalCluster(
            model=path,
            run_dir=new_run_dir(None),
            ports=choose_ports("127.0.0.1"),
            device=choose_device(device.value, this_machine().gpus, cuda_engine_installed()),
            router_args=("--served-model-name", name),
            worker_args=("--transport", transport.value),
            kv_cache_gib=kv_cache_gib,
        )
    say(f"model {path}")
    say(f"starting a router, a prefill and a decode worker on {cluster.device}, logs in {cluster.run_dir}")

    async def answer() -> None:
        say(f"\n{prompt}", style="bold", end="")
        request = Completion(cluster.http_url, name, prompt, max_tokens, os.environ.get("SEGUE_API_KEY", ""))
        try:
            end = await stream_completion(request, lambda text: say(text, end=""))
        finally:
            say("\n")
        say(str(end), style="cyan")

    try:
        stopped_by = run_cluster(Run(cluster, RestartPolicy("exit"), startup_timeout), console, answer)
    except CompletionError as error:
        raise fail(f"{error}; log files in {cluster.run_dir}") from None
    shutil.rmtree(cluster.run_dir)
    if stopped_by is not None:
        raise typer.Exit(128 + stopped_by)
