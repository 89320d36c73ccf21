"""The router as a process: how it starts, refuses to start, and leaves."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from segue.base.errors import Unavailable
from segue.client import SegueClient
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import Role
from tests.router.core.scripted import ScriptedWorker, stop_all, until
from tests.router.core.scripted_answers import counting

PROMPT = [5, 6, 7, 8]
# However busy the machine is; whoever waited for a drain's end would wait for longer.
ENDS_S, DRAIN_S = 60.0, 600


@dataclass
class Process:
    """A router process; ``ports`` as its log tells them."""

    child: asyncio.subprocess.Process
    ports: dict[str, int] = field(default_factory=dict)
    log: list[dict[str, Any]] = field(default_factory=list)
    noise: list[str] = field(default_factory=list)

    async def read_log(self) -> None:
        assert self.child.stderr is not None
        async for line in self.child.stderr:
            try:
                entry = json.loads(line)
            except ValueError:
                self.noise.append(line.decode())
                continue
            self.log.append(entry)
            if entry["event"] == "serving":
                self.ports = {name: entry[name] for name in ("http", "grpc", "workers")}

    def says(self, event: str) -> bool:
        return any(entry["event"] == event for entry in self.log)

    @property
    def faults(self) -> list[str]:
        """What Python and asyncio print when something went wrong unseen, without gRPC's own log (``E1121 ...``)."""
        words = ("Traceback", "Error", "never retrieved", "was destroyed", "exception")
        lines = [line for line in self.noise if not re.match(r"[EIW]\d{4} ", line)]
        return [line for line in lines if any(word in line for word in words)]


@asynccontextmanager
async def router_process(*options: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Process]:
    command = ["-m", "segue.cli", "router", "--model", str(ensure_embedded_model()), "--served-model-name", "tiny"]
    ports = ["--port", "0", "--grpc-port", "0", "--worker-port", "0", "--log-format", "json"]
    drain = ["--drain-timeout", str(DRAIN_S)]
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *(*command, *ports, *drain, *options),
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environment or {})},
    )
    process = Process(child)
    reading = asyncio.create_task(process.read_log())
    try:
        await until(lambda: process.ports or child.returncode is not None, timeout_s=60)
        yield process
    finally:
        if child.returncode is None:
            child.kill()
        await child.wait()
        await reading


@asynccontextmanager
async def workers_of(process: Process) -> AsyncIterator[tuple[ScriptedWorker, ScriptedWorker]]:
    address = f"127.0.0.1:{process.ports['workers']}"
    prefill = ScriptedWorker(address, "prefill-0", Role.ROLE_PREFILL)
    decode = ScriptedWorker(address, "decode-0", Role.ROLE_DECODE)
    await prefill.attach()
    await decode.attach()
    try:
        await until(lambda: sum(entry["event"] == "worker_ready" for entry in process.log) == 2)
        yield prefill, decode
    finally:
        await stop_all((prefill, decode))


@contextmanager
def listening_socket() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def listening_grpc() -> Iterator[int]:
    """As another router would: gRPC shares its port with whoever asks for it, unless told not to."""
    server = grpc.server(None)  # type: ignore[arg-type]
    port = server.add_insecure_port("127.0.0.1:0")
    yield port
    server.stop(None)


@pytest.mark.parametrize("option", ["--port", "--grpc-port", "--worker-port"])
@pytest.mark.parametrize("taken_by", [listening_socket, listening_grpc])
async def test_a_port_that_is_taken_is_named_with_the_option_to_change(
    option: str, taken_by: Callable[[], AbstractContextManager[int]]
) -> None:
    with taken_by() as port:
        async with router_process(option, str(port)) as process:
            assert await asyncio.wait_for(process.child.wait(), ENDS_S) == 2
    (refusal,) = [entry for entry in process.log if entry["event"] == "cannot_start"]
    assert f"127.0.0.1:{port}" in refusal["error"]
    assert f"choose another {option}" in refusal["error"]
    assert process.faults == [], "".join(process.noise)


async def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    async with router_process("--model", str(tmp_path / "nothing")) as process:
        assert await asyncio.wait_for(process.child.wait(), ENDS_S) == 2
    (refusal,) = [entry for entry in process.log if entry["event"] == "cannot_start"]
    assert str(tmp_path / "nothing") in refusal["error"]
    assert process.faults == [], "".join(process.noise)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
async def test_an_idle_router_leaves_at_once_and_in_order(stop: signal.Signals) -> None:
    async with router_process() as process, workers_of(process) as workers:
        for worker in workers:
            worker.keeps_lease = False  # In grpc.aio a write that fails hides why the stream ended.
        process.child.send_signal(stop)
        for worker in workers:
            code, details = await worker.ended()
            assert code is grpc.StatusCode.ABORTED
            assert "is shutting down" in details
        assert await asyncio.wait_for(process.child.wait(), ENDS_S) == 0
    assert process.says("draining")
    assert process.faults == [], "".join(process.noise)


async def test_at_sigterm_what_runs_finishes_and_what_comes_is_refused() -> None:
    async with (
        router_process() as process,
        workers_of(process) as (_, decode),
        SegueClient(f"127.0.0.1:{process.ports['grpc']}") as client,
        aiohttp.ClientSession(f"http://127.0.0.1:{process.ports['http']}") as http,
    ):
        decode.go.clear()
        running = asyncio.create_task(client.generate(PROMPT, max_tokens=5))
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 5, "stream": True}
        streaming = asyncio.create_task(_text(http, body))
        await until(lambda: len(decode.submits) == 2)
        process.child.send_signal(signal.SIGTERM)
        await until(lambda: process.says("draining"))
        with pytest.raises(Unavailable, match="shutting down"):
            await client.generate(PROMPT, max_tokens=5)
        async with http.post("/v1/completions", json=body) as response:
            assert response.status == 503
        async with http.get("/readyz") as response:
            assert (response.status, (await response.json())["draining"]) == (503, True)
        assert process.child.returncode is None
        decode.go.set()
        answer = await running
        assert list(answer.token_ids) == counting(PROMPT, SamplingParams(max_tokens=5))[:5]
        assert (await streaming).endswith("data: [DONE]\n\n")
        assert await asyncio.wait_for(process.child.wait(), ENDS_S) == 0
    assert process.faults == [], "".join(process.noise)


async def test_what_does_not_finish_in_the_drains_time_gets_an_error() -> None:
    async with (
        router_process("--drain-timeout", "0.3") as process,
        workers_of(process) as (_, decode),
        SegueClient(f"127.0.0.1:{process.ports['grpc']}") as client,
        aiohttp.ClientSession(f"http://127.0.0.1:{process.ports['http']}") as http,
    ):
        decode.go.clear()
        running = asyncio.create_task(client.generate(PROMPT, max_tokens=5))
        body = {"model": "tiny", "prompt": PROMPT, "max_tokens": 5, "stream": True}
        streaming = asyncio.create_task(_text(http, body))
        await until(lambda: len(decode.submits) == 2)
        process.child.send_signal(signal.SIGTERM)
        with pytest.raises(Unavailable, match="shutting down"):
            await running
        assert "shutting down" in await streaming
        assert await asyncio.wait_for(process.child.wait(), ENDS_S) == 0
    assert process.faults == [], "".join(process.noise)


async def test_a_second_signal_ends_a_router_that_drains() -> None:
    async with (
        router_process() as process,
        workers_of(process) as (_, decode),
        SegueClient(f"127.0.0.1:{process.ports['grpc']}") as client,
    ):
        decode.go.clear()
        running = asyncio.create_task(client.generate(PROMPT, max_tokens=5))
        await until(lambda: decode.submits)
        process.child.send_signal(signal.SIGTERM)
        await until(lambda: process.says("draining"))
        process.child.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.child.wait(), ENDS_S) == 128 + signal.SIGTERM
        with pytest.raises(Unavailable):
            await running


async def test_a_client_made_from_reflection_alone_can_ask() -> None:
    async with router_process() as process, workers_of(process):
        address = f"127.0.0.1:{process.ports['grpc']}"
        answer = await asyncio.to_thread(ask_by_reflection, address, PROMPT)
        tokens = [token for response in answer for choice in response.choices for token in choice.token_ids]
        assert tokens == counting(PROMPT, SamplingParams(max_tokens=4))[:4]
        assert answer[-1].usage.output_tokens == 4


def ask_by_reflection(address: str, prompt: Sequence[int]) -> list[Any]:
    """Everything it knows of the API comes from the server."""
    with grpc.insecure_channel(address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {"segue.v1.Inference", "grpc.health.v1.Health"} <= set(database.get_services())
        pool = DescriptorPool(database)
        method = pool.FindServiceByName("segue.v1.Inference").methods_by_name["Generate"]
        request = GetMessageClass(method.input_type)()
        request.token_ids.ids.extend(prompt)  # type: ignore[attr-defined]
        request.sampling.max_tokens = 4  # type: ignore[attr-defined]
        call = channel.unary_stream(
            "/segue.v1.Inference/Generate",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(method.output_type).FromString,
        )
        return list(call(request, timeout=20))


async def test_health_says_serving_and_readiness_needs_workers() -> None:
    async with (
        router_process() as process,
        aiohttp.ClientSession(f"http://127.0.0.1:{process.ports['http']}") as http,
        grpc.aio.insecure_channel(f"127.0.0.1:{process.ports['grpc']}") as channel,
    ):
        health = await health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(service="segue.v1.Inference")
        )
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        async with http.get("/readyz") as response:
            assert response.status == 503
            assert await response.json() == {"ready": False, "workers": [], "draining": False}
        async with workers_of(process), http.get("/readyz") as response:
            assert response.status == 200
        async with http.get("/healthz") as response:
            assert response.status == 200


async def _text(http: aiohttp.ClientSession, body: dict[str, Any]) -> str:
    async with http.post("/v1/completions", json=body) as response:
        return await response.text()
