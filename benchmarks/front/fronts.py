"""The fronts that are compared: each with what stands behind it, at one token cadence."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from comparison.servers import Server, free_ports, stop_all

from segue.cluster.ports import choose_ports

MODEL_NAME = "paced"
_READY_LIMIT_S = 90.0
_HERE = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Setup:
    model: Path
    cadence_ms: float
    log_dir: Path
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Running:
    """A front that is ready. ``pid`` 0: there is none, clients reach the back end itself."""

    pid: int
    http_port: int
    grpc_port: int = 0


@dataclass(slots=True)
class Site:
    """Where one start of a front puts its processes."""

    setup: Setup
    servers: list[Server] = field(default_factory=list)

    def start(self, name: str, command: Sequence[str], env: dict[str, str] | None = None) -> Server:
        path = os.pathsep.join([str(_HERE), os.environ.get("PYTHONPATH", "")])
        log_file = self.setup.log_dir / f"{name}-{len(self.servers)}.log"
        server = Server(name, command, {"PYTHONPATH": path} | (env or {}), log_file)
        self.servers.append(server)
        return server

    def mock(self, port: int) -> Server:
        return self.start(
            "mock",
            [
                *(sys.executable, "-m", "front.mock", "--port", str(port)),
                *("--model", MODEL_NAME, "--cadence-ms", f"{self.setup.cadence_ms:g}"),
            ],
        )


@dataclass(frozen=True, slots=True)
class FrontKind:
    """``start`` adds its processes to the site. ``about`` says what is behind it."""

    name: str
    about: str
    start: Callable[[Site], Running]

    @contextmanager
    def up(self, setup: Setup) -> Iterator[Running]:
        """Raises ServerFailedError when a process does not come up."""
        site = Site(setup)
        try:
            yield self.start(site)
        finally:
            stop_all(site.servers, 3.0)


def _deadline_s() -> float:
    return time.monotonic() + _READY_LIMIT_S


def _no_front(site: Site) -> Running:
    (port,) = free_ports(1)
    site.mock(port).wait_ready(f"http://127.0.0.1:{port}/health", _deadline_s())
    return Running(0, port)


def _segue(site: Site) -> Running:
    http_port, grpc_port = free_ports(2)
    setup = site.setup
    hub_port = choose_ports("127.0.0.1", router_processes=setup.processes).worker
    router = site.start(
        "segue",
        [
            *(sys.executable, "-m", "segue.cli", "router", "--model", str(setup.model)),
            *("--served-model-name", MODEL_NAME, "--port", str(http_port), "--grpc-port", str(grpc_port)),
            *("--worker-port", str(hub_port), "--max-concurrent-requests", "4096", "--max-queue-s", "60"),
            *("--processes", str(setup.processes), "--slo-class", "chat=ttft_s:60,tokens_per_s:30"),
            *("--disaggregation", "always"),  # The dearer way: two workers a request, two frames each.
        ],
    )
    router.wait_ready(f"http://127.0.0.1:{http_port}/healthz", _deadline_s())
    site.start(
        "pair",
        [
            *(sys.executable, "-m", "front.pair"),
            *(word for n in range(setup.processes) for word in ("--router", f"127.0.0.1:{hub_port + n}")),
            *("--model", str(setup.model), "--cadence-ms", f"{setup.cadence_ms:g}"),
        ],
    )
    router.wait_ready(f"http://127.0.0.1:{http_port}/readyz", _deadline_s())
    return Running(router.pid, http_port, grpc_port)


def _proxy(name: str, command: Callable[[int, int, str], list[str]]) -> Callable[[Site], Running]:
    """A router that proxies one OpenAI back end. ``command`` gets its port, a port for metrics and the back end."""

    def start(site: Site) -> Running:
        back, port, metrics = free_ports(3)
        site.mock(back).wait_ready(f"http://127.0.0.1:{back}/health", _deadline_s())
        router = site.start(name, command(port, metrics, f"http://127.0.0.1:{back}"))
        router.wait_ready(f"http://127.0.0.1:{port}/health", _deadline_s())
        time.sleep(1.0)  # Some answer before they have looked at their workers.
        return Running(router.pid, port)

    return start


def vllm_router(command: Path) -> FrontKind:
    def line(port: int, metrics: int, back: str) -> list[str]:
        return [
            *(str(command), "--host", "127.0.0.1", "--port", str(port), "--worker-urls", back),
            *("--policy", "round_robin", "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics)),
            *("--max-concurrent-requests", "4096", "--log-level", "warning"),
        ]

    return FrontKind("vllm-router", "one mock OpenAI server", _proxy("vllm-router", line))


def smg(command: Path) -> FrontKind:
    def line(port: int, metrics: int, back: str) -> list[str]:
        return [
            *(str(command), "launch", "--host", "127.0.0.1", "--port", str(port), "--worker-urls", back),
            *("--policy", "round_robin", "--prometheus-host", "127.0.0.1", "--prometheus-port", str(metrics)),
            *("--max-concurrent-requests", "4096", "--log-level", "warn", "--disable-load-monitoring"),
        ]

    return FrontKind("smg", "one mock OpenAI server", _proxy("smg", line))


def dynamo(python: Path, speedup: float) -> FrontKind:
    """Its front end with its own mocker, sped up by this much; both find each other by files."""

    def start(site: Site) -> Running:
        setup = site.setup
        (port,) = free_ports(1)
        found = tempfile.mkdtemp(prefix="dynamo-discovery-")
        env = {
            "DYN_DISCOVERY_BACKEND": "file",
            "DYN_FILE_KV": found,
            "DYN_REQUEST_PLANE": "tcp",
            "DYN_EVENT_PLANE": "zmq",
            "DYN_LOG": "warn",
            "HF_HUB_OFFLINE": "1",
        }
        front = site.start(
            "dynamo",
            [str(python), "-m", "dynamo.frontend", "--http-port", str(port), "--router-mode", "round-robin"],
            env,
        )
        site.start(
            "mocker",
            [
                *(str(python), "-m", "dynamo.mocker", "--model-path", str(setup.model), "--model-name", MODEL_NAME),
                *("--decode-speedup-ratio", f"{speedup:.3f}"),
            ],
            env,
        )
        front.wait_ready(f"http://127.0.0.1:{port}/v1/models", _deadline_s())
        return Running(front.pid, port)

    return FrontKind("dynamo", "its mocker", start)


NO_FRONT = FrontKind("none", "the mock OpenAI server itself", _no_front)
SEGUE = FrontKind("segue", "a prefill and a decode worker without engines", _segue)
