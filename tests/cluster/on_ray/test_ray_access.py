"""A Ray cluster that asks for a token, and Ray Client (``ray://``): with both, and without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from segue.cluster.ports import choose_ports, free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

STEP_S = 300.0
TOKEN = "right-" * 8


@dataclass(frozen=True)
class Head:
    """A head node with one port for drivers and one for Ray Client."""

    folder: Path
    port: int = field(default_factory=lambda: free_port("127.0.0.1"))
    client_port: int = field(default_factory=lambda: free_port("127.0.0.1"))

    def environment(self, **auth: str) -> dict[str, str]:
        """Of a user with files of his own, who has no token but in ``auth``."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_AUTH")}
        own = {"HOME": str(self.folder), "XDG_RUNTIME_DIR": str(self.folder), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
        return {**kept, **own, "RAY_raylet_start_wait_time_s": "120", **auth}

    def segue(self, *arguments: str, **auth: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "segue.cli", *arguments]
        environment = self.environment(**auth)
        return subprocess.run(command, capture_output=True, text=True, timeout=STEP_S, check=False, env=environment)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    pytest.importorskip("ray")
    head = Head(tmp_path_factory.mktemp("home"))
    ports = ("--port", str(head.port), "--ray-client-server-port", str(head.client_port))
    # Ray puts sockets there: their paths may not be long.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        rest = ("--block", "--num-cpus", "2", "--include-dashboard", "false", "--temp-dir", folder)
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--node-ip-address", "127.0.0.1"]
        environment = head.environment(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
        log = head.folder / "head.log"
        with log.open("wb") as out:
            # A session of its own, whose processes can be ended together: ray stop would end those of other tests, too.
            process = subprocess.Popen(
                [*command, *ports, *rest], env=environment, stdout=out, stderr=out, start_new_session=True
            )
        try:
            deadline_s = time.monotonic() + STEP_S
            while "runtime started" not in log.read_text():
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline_s, log.read_text()
                time.sleep(0.2)
            yield head
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(30)
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_whoever_has_the_token_starts_and_stops_a_cluster_through_ray_client_or_as_a_driver(head: Head) -> None:
    """Every link has TLS, and commands find the cluster and its certificates by themselves."""
    (token := head.folder / "token").write_text(TOKEN)
    by_file = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    by_value = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    ports = choose_ports("127.0.0.1")
    listening = ("--port", str(ports.http), "--grpc-port", str(ports.grpc), "--worker-port", str(ports.worker))
    rest = ("--pools-port", str(free_port("127.0.0.1")), "--log-dir", str(head.folder / "logs"))
    through = ("--address", f"ray://127.0.0.1:{head.client_port}")
    up = head.segue("up", "--ray", *through, "--engine", "simulated", *listening, *rest, **by_file)
    assert up.returncode == 0, up.stderr
    assert f"https://127.0.0.1:{ports.http}/v1" in up.stdout
    scaled = head.segue("scale", "prefill=1", "decode=1")
    assert (scaled.returncode, scaled.stdout.count("-0 ")) == (0, 2), scaled.stderr
    again = head.segue("up", "--ray", "--address", f"127.0.0.1:{head.port}", "--engine", "simulated", **by_value)
    assert f"https://127.0.0.1:{ports.http}/v1" in again.stdout, "the one that runs"
    down = head.segue("down", *through, **by_value)
    assert (down.returncode, down.stdout.strip()) == (0, "stopped"), down.stderr
    assert list((head.folder / "segue").iterdir()) == []


@pytest.mark.parametrize(
    "auth",
    [
        {"RAY_AUTH_MODE": "disabled"},
        {"RAY_AUTH_MODE": "token"},
        {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "guess"},
    ],
    ids=["no token", "none found", "another one"],
)
def test_whoever_has_not_is_told_what_is_missing(head: Head, auth: dict[str, str]) -> None:
    down = head.segue("down", "--address", f"127.0.0.1:{head.port}", **auth)
    assert down.returncode == 2
    assert "no Ray cluster lets us in at" in down.stderr
    assert "RAY_AUTH_TOKEN" in down.stderr
