"""One router as several processes, for real: they share the public ports, and one's death is its own streams' alone."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import ExitStack, suppress
from pathlib import Path

import psutil
import pytest
import pytest_asyncio
from aiohttp import ClientConnectionError, ClientPayloadError, ClientSession, TCPConnector

from segue.base.errors import SettingsError
from segue.cluster.ports import choose_ports
from segue.cluster.router_processes import _Processes, check_shared_ports
from segue.engine.embedded_model import ensure_embedded_model
from tests.router.core.scripted import until

PROCESSES = 2


def test_a_port_of_someone_elses_is_not_shared() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SettingsError, match="choose another --port"):
            check_shared_ports("127.0.0.1", [("--port", other.getsockname()[1])])


def test_a_shared_port_must_have_a_number() -> None:
    with pytest.raises(SettingsError, match="give --grpc-port a number"):
        check_shared_ports("127.0.0.1", [("--grpc-port", 0)])


def test_the_workers_ports_are_free_in_a_row() -> None:
    first = choose_ports("127.0.0.1", router_processes=4).worker
    with ExitStack() as held:
        for number in range(4):
            held.enter_context(socket.socket()).bind(("127.0.0.1", first + number))


STAND_IN = """#!/bin/sh
trap 'touch "$PWD/hung-up-$$"' HUP
trap 'exit 0' TERM
touch "$PWD/ready-$$"
while :; do sleep 0.1; done
"""


async def test_a_signal_that_the_processes_understand_reaches_each_of_them_and_ends_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(STAND_IN)
    stand_in.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stand_in))
    monkeypatch.chdir(tmp_path)
    processes = _Processes((), PROCESSES, (signal.SIGHUP,))
    running = asyncio.create_task(processes.run())

    def told(what: str) -> int:
        return len(list(tmp_path.glob(f"{what}-*")))

    await until(lambda: told("ready") == PROCESSES)
    try:
        os.kill(os.getpid(), signal.SIGHUP)
        await until(lambda: told("hung-up") == PROCESSES)
    finally:
        processes.stop(signal.SIGTERM)
    assert await running == 0
    assert told("ready") == PROCESSES


@pytest_asyncio.fixture
async def url(tmp_path: Path) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    ports = choose_ports("127.0.0.1", router_processes=PROCESSES)
    model = ("--model", str(ensure_embedded_model()))
    hub = ("--router", f"127.0.0.1:{ports.worker}", "--engine", "simulated", *model)
    commands = (
        (
            *("router", *model, "--port", str(ports.http), "--grpc-port", str(ports.grpc)),
            *("--worker-port", str(ports.worker), "--processes", str(PROCESSES)),
            *("--slo-class", "chat=ttft_s:60,tokens_per_s:1"),  # On a busy machine, too.
        ),
        ("prefill-worker", "--worker-id", "p0", *hub),
        ("decode-worker", "--worker-id", "d0", *hub),
    )
    processes = []
    with (tmp_path / "log").open("wb") as log:
        for command in commands:
            argv = (sys.executable, "-m", "segue.cli", *command)
            processes.append(await asyncio.create_subprocess_exec(*argv, stdout=log, stderr=log))
    try:
        yield f"http://127.0.0.1:{ports.http}", processes[0]
    finally:
        for process in processes:
            if process.returncode is None:
                process.terminate()
        await asyncio.gather(*(process.wait() for process in processes))


async def stream(client: ClientSession, url: str, tokens: int, begun: Counter[str] | None = None) -> tuple[int, bool]:
    """How many tokens came, and whether the stream came to its end."""
    body = {"prompt": "hi", "max_tokens": tokens, "stream": True, "ignore_eos": True}
    events = 0
    try:
        async with client.post(f"{url}/v1/completions", json=body) as response:
            assert response.status == 200, await response.text()
            async for line in response.content:
                if line.startswith(b"data: [DONE]"):
                    return events, True
                events += line.startswith(b"data: {") and "choices" in json.loads(line[6:])
                if begun is not None and events == 1:
                    begun["streams"] += 1
                    begun = None
    except (ClientPayloadError, ClientConnectionError):
        pass
    return events, False


def listening(router: asyncio.subprocess.Process, url: str) -> int:
    """How many of the router's processes are dealt connections."""
    port = int(url.rpartition(":")[2])
    found = 0
    for child in psutil.Process(router.pid).children():
        with suppress(psutil.NoSuchProcess):
            found += any(one.laddr.port == port and one.status == "LISTEN" for one in child.net_connections("tcp"))
    return found


async def all_ready(client: ClientSession, url: str, router: asyncio.subprocess.Process) -> None:
    """Until all listen and so many fresh connections in a row find a ready process that it is each of them."""
    async with asyncio.timeout(240):
        while listening(router, url) < PROCESSES:
            await asyncio.sleep(0.1)
        found = 0
        while found < 12:
            try:
                async with client.get(f"{url}/readyz") as response:
                    found = found + 1 if response.status == 200 else 0
            except ClientConnectionError:
                found = 0
            await asyncio.sleep(0 if found else 0.2)


@pytest.mark.slow
async def test_killing_one_process_ends_its_streams_only_and_it_comes_back(
    url: tuple[str, asyncio.subprocess.Process],
) -> None:
    address, router = url
    # A new connection for each request: the kernel deals out connections, not requests.
    async with ClientSession(connector=TCPConnector(force_close=True, limit=0)) as client:
        await all_ready(client, address, router)
        children = psutil.Process(router.pid).children()
        assert len(children) == PROCESSES
        begun: Counter[str] = Counter()
        streams = [asyncio.create_task(stream(client, address, 400, begun)) for _ in range(16)]
        while begun["streams"] < len(streams):
            await asyncio.sleep(0.01)
        children[0].send_signal(signal.SIGKILL)
        ended = [whole for _, whole in await asyncio.gather(*streams)]
        assert any(ended)
        assert not all(ended)
        await all_ready(client, address, router)
        assert {child.pid for child in psutil.Process(router.pid).children()} != {child.pid for child in children}
        again = await asyncio.gather(*(stream(client, address, 5) for _ in range(12)))
        assert all(whole for _, whole in again)
    router.terminate()
    assert await router.wait() == 0
