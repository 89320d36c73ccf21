"""The two stacks: the processes of each, and how to start them on the same cores."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from comparison.servers import Server, free_ports, stop_all

_STOP_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Setup:
    """What both stacks are started with."""

    model: Path
    log_dir: Path  # one log file for each process
    ready_limit_s: float  # for a whole stack, from its start
    cache_gib: int  # KV cache of one engine
    dtype: str  # as vLLM names it; weights, activations and KV cache of both stacks


@dataclass(frozen=True, slots=True)
class Stack:
    """A serving stack. ``start`` appends each process to the list it is given and returns the base URL."""

    name: str
    start: Callable[[Setup, list[Server]], str]

    @contextmanager
    def up(self, setup: Setup) -> Iterator[str]:
        """The stack's base URL while it is up and ready; every process of it has ended afterwards.

        Raises ``ServerFailedError`` when a process does not come up, or is found dead at the end.
        """
        servers: list[Server] = []
        try:
            yield self.start(setup, servers)
            for server in servers:
                server.check_alive()
        finally:
            stop_all(servers, _STOP_PATIENCE_S)


def stock_stack(router_command: Path, engine_args: Sequence[str] = ()) -> Stack:
    """Two vLLM API servers joined by the NixlConnector, behind vllm-router in its prefill-decode mode."""

    def start(setup: Setup, servers: list[Server]) -> str:
        deadline_s = time.monotonic() + setup.ready_limit_s
        router_port, metrics_port, *ports = free_ports(6)
        cores = sorted(os.sched_getaffinity(0))
        urls = []
        for index, role in enumerate(("kv_producer", "kv_consumer")):
            port, side_channel_port = ports[2 * index : 2 * index + 2]
            kv_transfer = {"kv_connector": "NixlConnector", "kv_role": role, "kv_buffer_device": "cpu"}
            connected = ["--kv-transfer-config", json.dumps(kv_transfer), *engine_args]
            command = _vllm_server_command(setup, port, connected)
            # Both engines would take the same core if left to choose.
            env = _engine_env(setup, core=cores[index % len(cores)], side_channel_port=side_channel_port)
            servers.append(Server(f"vLLM server ({role})", command, env, setup.log_dir / f"stock-{role}.log"))
            urls.append(f"http://127.0.0.1:{port}")
        for index, (server, url) in enumerate(zip(servers, urls, strict=True)):
            server.wait_ready(f"{url}/health", deadline_s)
            # On CPU the NixlConnector moves the thread that runs the model to the last core of its NUMA node, the
            # same one for both engines, whatever they were told: decode then starves until leases expire.
            server.pin("VLLM::Worker", cores[index % len(cores)])
        prefill_url, decode_url = urls
        command = [
            str(router_command),
            "--vllm-pd-disaggregation",
            *("--prefill", prefill_url, "--decode", decode_url),
            *("--host", "127.0.0.1", "--port", str(router_port)),
            *("--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics_port)),
            *("--log-level", "warning"),
        ]
        router = Server("vllm-router", command, {}, setup.log_dir / "stock-router.log")
        servers.append(router)
        base_url = f"http://127.0.0.1:{router_port}"
        router.wait_ready(f"{base_url}/health", deadline_s)
        return base_url

    return Stack("stock", start)


def segue_stack(segue_command: Sequence[str], args: Sequence[str] = ()) -> Stack:
    """``segue up`` with one prefill and one decode worker and the common settings; ``args`` come last."""

    def start(setup: Setup, servers: list[Server]) -> str:
        deadline_s = time.monotonic() + setup.ready_limit_s
        [port] = free_ports(1)
        command = [
            *segue_command,
            *("up", "--prefill", "1", "--decode", "1", "--model", str(setup.model), "--port", str(port)),
            *("--disaggregation", "always"),  # The stock stack can do nothing else.
            *("--slo-class", "chat=ttft_s:60,tokens_per_s:1"),  # It refuses nobody either.
            *("--engine-arg", f"dtype={setup.dtype}", "--kv-cache-gib", str(setup.cache_gib)),
            *("--log-dir", str(setup.log_dir / "segue")),
            *args,
        ]
        server = Server("segue up", command, _COMMON_ENV, setup.log_dir / "segue-up.log")
        servers.append(server)
        base_url = f"http://127.0.0.1:{port}"
        server.wait_ready(f"{base_url}/readyz", deadline_s)
        return base_url

    return Stack("segue", start)


@contextmanager
def aggregated_servers(setup: Setup, engine_args: Sequence[str] = ()) -> Iterator[list[str]]:
    """The base URLs of one plain vLLM server on each of two cores, each doing prefill and decode.

    Raises ``ServerFailedError`` when one does not come up, or is found dead at the end.
    """
    deadline_s = time.monotonic() + setup.ready_limit_s
    cores = sorted(os.sched_getaffinity(0))
    servers: list[Server] = []
    try:
        urls = []
        for index, port in enumerate(free_ports(2)):
            env = _engine_env(setup, core=cores[index % len(cores)], side_channel_port=0)
            command = _vllm_server_command(setup, port, engine_args)
            servers.append(Server(f"vLLM server {index}", command, env, setup.log_dir / f"aggregated-{index}.log"))
            urls.append(f"http://127.0.0.1:{port}")
        for server, url in zip(servers, urls, strict=True):
            server.wait_ready(f"{url}/health", deadline_s)
        yield urls
        for server in servers:
            server.check_alive()
    finally:
        stop_all(servers, _STOP_PATIENCE_S)


# No look-ups of models and no reports of use over the network while measuring.
_COMMON_ENV = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def _engine_env(setup: Setup, core: int, side_channel_port: int) -> dict[str, str]:
    return {
        **_COMMON_ENV,
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": str(core),
        "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
        "VLLM_CPU_KVCACHE_SPACE": str(setup.cache_gib),
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_HOST": "127.0.0.1",
        "VLLM_NIXL_SIDE_CHANNEL_PORT": str(side_channel_port),
    }


def _vllm_server_command(setup: Setup, port: int, engine_args: Sequence[str]) -> list[str]:
    return [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(setup.model), "--dtype", setup.dtype, "--host", "127.0.0.1", "--port", str(port)),
        *engine_args,
    ]
