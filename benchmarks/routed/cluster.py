"""Two prefill and two decode workers with real engines, and one router for each policy before all of them.

The same engines serve every policy, in turns, so that policies are compared and not starts of vLLM.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from comparison.servers import Server, free_ports, stop_all

from segue.cluster.environment import Machine, share_of, worker_environment
from segue.cluster.local import this_machine
from segue.engine.embedded_model import ensure_embedded_model

_START_S = 300.0
_WORKERS = ("prefill-0", "decode-0", "prefill-1", "decode-1")
_SEGUE = (sys.executable, "-m", "segue.cli")


@contextmanager
def routed_engines(policies: Mapping[str, Sequence[str]], kv_blocks: int, gpu: str) -> Iterator[dict[str, str]]:
    """The public gRPC address of each policy's router. ``policies`` are flags by name.

    ``gpu`` is one to simulate, ten times slowed so that this machine's own noise doesn't show; empty: real engines.
    """
    model = str(ensure_embedded_model())
    machine = Machine(this_machine().cores)
    servers: list[Server] = []
    with TemporaryDirectory(prefix="segue-routing-") as logs:
        try:
            addresses, ready, hubs = {}, [], []
            for name, flags in policies.items():
                http, grpc_port, worker_port = free_ports(3)
                ports = ("--port", str(http), "--grpc-port", str(grpc_port), "--worker-port", str(worker_port))
                command = (
                    *(*_SEGUE, "router", "--model", model, *ports, "--max-queue-s", "1000", *flags),
                    *("--slo-class", "chat=ttft_s:1000,tokens_per_s:1"),
                )
                servers.append(Server(f"router {name}", command, {}, Path(logs) / f"router-{name}.log"))
                addresses[name] = f"127.0.0.1:{grpc_port}"
                ready.append(f"http://127.0.0.1:{http}/readyz")
                hubs += ["--router", f"127.0.0.1:{worker_port}"]
            if gpu:
                command = (
                    *(*_SEGUE, "simulated-workers", *hubs, "--model", model, "--prefill", "2", "--decode", "2"),
                    *("--engine-arg", f"gpu={gpu}", "--engine-arg", "speed=0.1", "--engine-arg", "block_size=128"),
                    *("--engine-arg", f"num_gpu_blocks_override={kv_blocks}"),
                )
                servers.append(Server("workers", command, {}, Path(logs) / "workers.log"))
            for number, worker in enumerate(() if gpu else _WORKERS):
                role = worker.partition("-")[0]
                command = (
                    *(*_SEGUE, f"{role}-worker", *hubs, "--model", model, "--worker-id", worker),
                    *("--engine-arg", f"num_gpu_blocks_override={kv_blocks}"),
                )
                environment = worker_environment({}, share_of(machine, number, "cpu"), 1.0)
                servers.append(Server(worker, command, environment, Path(logs) / f"{worker}.log"))
            for server, url in zip(servers, ready, strict=False):
                server.wait_ready(url, time.monotonic() + _START_S)
            time.sleep(2.0 if gpu else 20.0)  # Ready is one of each pool; the others are not far behind.
            yield addresses
        finally:
            stop_all(servers, patience_s=15)
