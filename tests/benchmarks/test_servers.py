"""Real processes, small ones: ready, dead, stubborn."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from comparison.servers import Server, ServerFailedError, free_ports, stop_all

_HTTP_SERVER = (
    "import http.server as h; h.ThreadingHTTPServer(('127.0.0.1', {}), h.SimpleHTTPRequestHandler).serve_forever()"
)
# Ignores SIGTERM, as does its child.
_STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(child.pid, flush=True)
time.sleep(60)
"""


def _python(code: str, log_file: Path) -> Server:
    return Server("a server", [sys.executable, "-c", code], {}, log_file)


def test_a_server_is_awaited_and_ended(tmp_path: Path) -> None:
    [port] = free_ports(1)
    server = _python(_HTTP_SERVER.format(port), tmp_path / "log")
    try:
        server.wait_ready(f"http://127.0.0.1:{port}/", time.monotonic() + 60)
        server.check_alive()
    finally:
        stop_all([server], patience_s=5)
    with pytest.raises(ServerFailedError, match="ended with status -15"):
        server.check_alive()


def test_the_log_of_a_server_that_dies_is_shown(tmp_path: Path) -> None:
    server = _python("raise SystemExit('no such model')", tmp_path / "log")
    try:
        with pytest.raises(ServerFailedError, match=r"(?s)status 1 before .*no such model"):
            server.wait_ready("http://127.0.0.1:9/", time.monotonic() + 60)
    finally:
        stop_all([server], patience_s=5)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    server = _python("import time; time.sleep(60)", tmp_path / "log")
    try:
        with pytest.raises(ServerFailedError, match="in time"):
            server.wait_ready("http://127.0.0.1:9/", time.monotonic() + 0.5)
    finally:
        stop_all([server], patience_s=5)


def test_one_that_ignores_the_request_to_end_is_killed_with_what_it_started(tmp_path: Path) -> None:
    log_file = tmp_path / "log"
    server = _python(_STUBBORN, log_file)
    try:
        child = psutil.Process(_first_number(log_file))
    finally:
        stop_all([server], patience_s=0.2)
    assert not child.is_running()


def test_a_server_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from comparison.servers import Server\n"
        "child = 'import os, time; print(os.getpid(), flush=True); time.sleep(60)'\n"
        f"s = Server('x', [sys.executable, '-c', child], {{}}, Path({str(tmp_path / 'log')!r}))\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2] / "benchmarks")
    try:
        server = psutil.Process(_first_number(tmp_path / "log"))
    finally:
        parent.kill()
        parent.wait(timeout=10)
    assert _ends_within(server, 10)


def _first_number(log_file: Path) -> int:
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s:
        if log_file.exists() and (text := log_file.read_text()).endswith("\n"):
            return int(text.split()[0])
        time.sleep(0.05)
    raise TimeoutError(f"nothing was written to {log_file}")


def _ends_within(process: psutil.Process, limit_s: float) -> bool:
    gone, _ = psutil.wait_procs([process], timeout=limit_s)
    return bool(gone) or process.status() == psutil.STATUS_ZOMBIE
