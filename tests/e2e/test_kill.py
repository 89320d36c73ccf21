"""Any one process may be killed: it is told which, every request ends, and nothing is left running."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from segue.base.errors import Unavailable
from segue.client import SegueClient
from segue.proto.inference_pb2 import Path as HandoffPath
from tests.e2e.processes import assert_gone, named, tree
from tests.e2e.running import Cluster, assert_baseline, launched, running_cluster

pytestmark = [pytest.mark.engine, pytest.mark.slow]

BODY: dict[str, Any] = {"temperature": 0, "max_tokens": 2000, "ignore_eos": True, "stream": True}


def stream_until_it_ends(cluster: Cluster) -> list[str]:
    """The lines of a stream that something will break; the last one is ``broken`` if the connection was."""
    lines: list[str] = []
    try:
        with httpx.stream(
            "POST",
            f"{cluster.http_url}/v1/completions",
            json={"model": cluster.model, "prompt": "a", **BODY},
            timeout=60,
        ) as answer:
            lines.extend(line for line in answer.iter_lines() if line)
    except httpx.HTTPError:
        lines.append("broken")
    return lines


def test_a_killed_process_ends_the_cluster(tmp_path: Path) -> None:
    """Whichever: the supervisor knows no difference."""
    name = "decode-0"
    with running_cluster(tmp_path, "--drain-timeout", "1") as cluster, ThreadPoolExecutor() as threads:
        processes = tree(cluster.process.pid)
        answer = threads.submit(stream_until_it_ends, cluster)
        time.sleep(0.5)
        os.kill(named(processes, name).pid, signal.SIGKILL)
        assert cluster.process.wait(60) == 1
        said = cluster.output()
        assert f"{name} was killed by SIGKILL" in said
        assert f"{name}.log" in said
        assert_gone(processes)
        last = answer.result(timeout=30)[-1]
        assert last == "broken" or "error" in json.loads(last.removeprefix("data: ")), last


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=lambda signum: signum.name)
def test_ending_it_while_engines_load_ends_all_of_it_soon(tmp_path: Path, end: signal.Signals) -> None:
    # Whoever waited for a drain's end would wait for longer than a busy machine takes.
    with launched(tmp_path, "up", "--log-dir", str(tmp_path), "--drain-timeout", "600") as process:
        _wait_for(tmp_path / "up.log", "prefill-0    loading", process)
        time.sleep(2)  # Into vLLM's start.
        processes = tree(process.pid)
        assert len(processes) >= 4
        process.send_signal(end)
        assert process.wait(60) == (0 if end == signal.SIGINT else -end)
        assert_gone(processes)


@pytest.fixture(scope="module")
def restarting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Shared by the tests below, of which the last ends it."""
    with running_cluster(tmp_path_factory.mktemp("restarting"), "--on-death", "restart") as cluster:
        yield cluster


async def test_a_killed_decode_worker_comes_back(restarting: Cluster) -> None:
    """There is no other one: its answers wait for it and go on, or are given up with one clear error."""
    cluster = restarting
    killed = named(tree(cluster.process.pid), "decode-0")
    tokens = 300
    async with SegueClient(cluster.grpc_address) as client:

        async def read() -> tuple[int, Exception | None]:
            seen = 0
            try:
                async for delta in client.stream("b", temperature=0.0, max_tokens=tokens, ignore_eos=True):
                    seen += len(delta.token_ids)
            except Unavailable as error:
                return seen, error
            return seen, None

        reading = [asyncio.create_task(read()) for _ in range(3)]
        await asyncio.sleep(0.7)
        os.kill(killed.pid, signal.SIGKILL)
        for seen, error in await asyncio.gather(*reading):
            assert seen > 1
            assert (seen == tokens) == (error is None), (seen, error)
            assert error is None or "decode-0" in str(error)
        answer = await _served_again(client, within_s=60)
        assert answer.timings.decode_worker == "decode-0"
        assert answer.timings.transport == "grpc"
    await asyncio.to_thread(assert_baseline, cluster)
    assert named(tree(cluster.process.pid), "decode-0").pid != killed.pid
    assert "decode-0 was killed by SIGKILL" in cluster.output()


async def test_a_killed_router_comes_back_and_finds_its_workers(restarting: Cluster) -> None:
    cluster = restarting
    before = tree(cluster.process.pid)
    over_http = asyncio.create_task(asyncio.to_thread(stream_until_it_ends, cluster))
    await asyncio.sleep(0.5)
    os.kill(named(before, "router").pid, signal.SIGKILL)
    assert (await over_http)[-1] == "broken"
    await asyncio.to_thread(assert_baseline, cluster)  # Nobody is there to read the answer.
    async with SegueClient(cluster.grpc_address) as client:
        await _served_again(client, within_s=60)
    for name in ("prefill-0", "decode-0"):
        assert named(before, name).runs(), f"{name} had no reason to end"


async def test_while_a_killed_prefill_worker_comes_back_decode_computes_prompts(restarting: Cluster) -> None:
    cluster = restarting
    os.kill(named(tree(cluster.process.pid), "prefill-0").pid, signal.SIGKILL)
    async with SegueClient(cluster.grpc_address) as client:
        answer = await client.generate("c", max_tokens=3, timeout_s=20, ignore_eos=True)
        assert answer.timings.path == HandoffPath.PATH_LOCAL
        until_s = time.monotonic() + 60
        while answer.timings.path == HandoffPath.PATH_LOCAL:
            assert time.monotonic() < until_s, "prefill-0 has not come back"
            await asyncio.sleep(0.2)
            answer = await _served_again(client, within_s=30)
        assert answer.timings.prefill_worker == "prefill-0"
    await asyncio.to_thread(assert_baseline, cluster)


def test_an_interrupt_ends_it_with_status_0(restarting: Cluster) -> None:
    """The last test of this cluster."""
    processes = tree(restarting.process.pid)
    assert len(processes) >= 4
    restarting.process.send_signal(signal.SIGINT)
    assert restarting.process.wait(60) == 0
    assert "stopped" in restarting.output()
    assert_gone(processes)


async def _served_again(client: SegueClient, within_s: float) -> Any:
    deadline_s = time.monotonic() + within_s
    while True:
        try:
            return await client.generate("again", temperature=0.0, max_tokens=5, ignore_eos=True)
        except Unavailable:
            if time.monotonic() > deadline_s:
                raise
            await asyncio.sleep(0.2)


def _wait_for(log: Path, words: str, process: subprocess.Popen[str], within_s: float = 60) -> None:
    deadline_s = time.monotonic() + within_s
    while words not in log.read_text():
        assert process.poll() is None, f"it ended with {process.returncode}:\n{log.read_text()}"
        assert time.monotonic() < deadline_s, f"no {words!r} after {within_s:g} s:\n{log.read_text()}"
        time.sleep(0.1)
