"""The router's ports as a process serves them: who gets nothing, who gets in, and what rotates."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import openai
import pytest
from structlog.testing import capture_logs

from segue.base.errors import Overloaded, SettingsError, Unauthenticated
from segue.base.identity import ROUTER_DNS, Kind, worker_dns
from segue.base.tls import TlsFiles, TlsSource
from segue.base.tls_http import client_context
from segue.base.versions import PROTOCOL
from segue.client import SegueClient
from segue.cluster.certs import issue, worker_holder
from segue.proto.fleet_pb2 import ListFleetRequest
from segue.proto.inference_pb2 import ListModelsRequest
from segue.proto.worker_pb2 import Register, Role, WorkerFrame
from segue.router.access.keys import KeyLimits, mint
from segue.router.security import open_security
from segue.router.settings import RouterSettings
from tests.router.core.scripted import ScriptedWorker, stop_all, until
from tests.router.core.test_main import Process, router_process
from tests.security.mesh import Authority
from tests.security.peers import grpc_outcome, outsiders, plain_bytes, served_certificate, tls_bytes

ATTACH = "/segue.v1.WorkerHub/Attach"
FLEET = "/segue.v1.Fleet/List"
MODELS = "/segue.v1.Inference/ListModels"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
PROMPT = [5, 6, 7, 8]
STREAMED: dict[str, Any] = {"model": "tiny", "prompt": "x", "max_tokens": 3, "stream": True}


def register(worker_id: str = "prefill-0", role: Role = Role.ROLE_PREFILL) -> WorkerFrame:
    return WorkerFrame(
        register=Register(worker_id=worker_id, epoch="e", role=role, address="127.0.0.1:1", protocol=PROTOCOL)
    )


def mesh_options(files: TlsFiles) -> list[str]:
    return ["--tls-cert", files.cert, "--tls-key", files.key, "--tls-ca", files.ca]


def public_options(files: TlsFiles) -> list[str]:
    return ["--public-tls-cert", files.cert, "--public-tls-key", files.key]


@asynccontextmanager
async def secured(ours: Authority, *more: str) -> AsyncIterator[tuple[Process, TlsFiles]]:
    files = ours.files("router", "router", "localhost", "127.0.0.1")
    async with router_process(*mesh_options(files), *public_options(files), *more) as process:
        yield process, files


async def test_outsiders_get_nothing_from_the_workers_port(ours: Authority, strangers: Authority) -> None:
    async with secured(ours) as (process, _):
        port = process.ports["workers"]
        address = f"127.0.0.1:{port}"
        for who, tls in outsiders(ours, strangers):
            code, _ = await grpc_outcome(address, tls, ROUTER_DNS, ATTACH, register())
            assert code == grpc.StatusCode.UNAVAILABLE, who
        assert plain_bytes(port) == b""
        wrong: list[tuple[Kind, str, str, Role]] = [
            ("client", "client", "prefill-0", Role.ROLE_PREFILL),
            ("router", "router", "prefill-0", Role.ROLE_PREFILL),
            ("prefill", "prefill-1", "prefill-0", Role.ROLE_PREFILL),
            ("decode", "prefill-0", "prefill-0", Role.ROLE_PREFILL),
            ("prefill", "*", "decode-0", Role.ROLE_DECODE),
        ]
        for kind, name, worker_id, role in wrong:
            worker = ScriptedWorker(address, worker_id, role, tls=ours.source(kind, name))
            await worker.attach()
            code, details = await worker.ended()
            await worker.stop()
            assert code == grpc.StatusCode.PERMISSION_DENIED, (kind, name)
            assert f"segue://{kind}/{name}" in details
        assert not process.says("worker_attached")
        refusals = [entry["reason"] for entry in process.log if entry["event"] == "worker_refused"]
        assert len(refusals) == len(wrong)
        assert "its certificate is for segue://prefill/prefill-1" in " ".join(refusals)
        flex = issue(ours.folder, worker_holder("flex/flex-0"), days=1)
        for role in (Role.ROLE_PREFILL, Role.ROLE_DECODE):
            both = ScriptedWorker(address, "flex-0", role, tls=TlsSource(flex))
            await both.attach()
            await both.stop()
        for name in ("prefill-0", "*"):
            good = ScriptedWorker(address, "prefill-0", Role.ROLE_PREFILL, tls=ours.source("prefill", name))
            await good.attach()
            await good.stop()
        assert process.faults == []


async def test_the_fleet_on_the_workers_port_is_for_routers_and_operators(ours: Authority) -> None:
    async with secured(ours) as (process, _):
        address = f"127.0.0.1:{process.ports['workers']}"
        allowed: tuple[Kind, ...] = ("router", "operator")
        kinds: tuple[Kind, ...] = ("client", "prefill", "decode", *allowed)
        for kind in kinds:
            code, told = await grpc_outcome(address, ours.source(kind, "x"), ROUTER_DNS, FLEET, ListFleetRequest())
            assert (code == grpc.StatusCode.OK) == (kind in allowed), (kind, told)


async def test_a_router_of_another_ca_or_another_kind_gets_no_worker(ours: Authority, strangers: Authority) -> None:
    async with secured(ours) as (process, _):
        address = f"127.0.0.1:{process.ports['workers']}"
        theirs = strangers.source("prefill", "prefill-0")
        code, details = await grpc_outcome(address, theirs, ROUTER_DNS, ATTACH, register())
        assert code == grpc.StatusCode.UNAVAILABLE
        assert "CERTIFICATE_VERIFY_FAILED" in details
        # A worker's certificate doesn't make a router.
        code, details = await grpc_outcome(address, ours.source("prefill", "p"), worker_dns("p"), ATTACH, register())
        assert code == grpc.StatusCode.UNAVAILABLE
        assert "Hostname Verification Check failed" in details


async def test_only_callers_with_tls_and_a_key_reach_the_public_api(
    ours: Authority, strangers: Authority, tmp_path: Path
) -> None:
    secret, key = mint("alice", KeyLimits(max_concurrent_requests=1))
    (tmp_path / "keys").write_text(key.line())
    async with secured(ours, "--api-keys", str(tmp_path / "keys")) as (process, files):
        trust = TlsFiles(ca=files.ca)
        http, port = process.ports["http"], process.ports["grpc"]
        address = f"127.0.0.1:{port}"
        bearer = (("authorization", f"Bearer {secret}"),)

        for who, tls in (("plain text", None), ("another CA", strangers.trust_only)):
            code, _ = await grpc_outcome(address, tls, "", MODELS, ListModelsRequest(), bearer)
            assert code == grpc.StatusCode.UNAVAILABLE, who
        for method in (MODELS, "/segue.v1.Inference/Generate", "/segue.v1.Inference/Tokenize", REFLECTION):
            for metadata in ((), (("authorization", "Bearer sk-segue-guess"),), (("authorization", "Basic eDp5"),)):
                code, details = await grpc_outcome(address, ours.trust_only, "", method, b"", metadata)
                assert (code, "guess" in details) == (grpc.StatusCode.UNAUTHENTICATED, False), (method, details)
        assert (await grpc_outcome(address, ours.trust_only, "", HEALTH))[0] == grpc.StatusCode.OK

        assert plain_bytes(http) == b""
        assert tls_bytes(http, client_context(TlsFiles(ca=str(strangers.folder / "ca.crt"))), "localhost") == b""
        async with httpx.AsyncClient(base_url=f"https://127.0.0.1:{http}", verify=client_context(trust)) as client:
            for path in ("/v1/models", "/v1/chat/completions", "/nothing"):
                for headers in ({}, {"Authorization": "Bearer sk-segue-guess"}, {"Authorization": secret}):
                    answer = await client.post(path, headers=headers, json={})
                    assert answer.status_code == 401, path
                    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="segue"'
                    error = answer.json()["error"]
                    assert (error["type"], "guess" in error["message"]) == ("invalid_request_error", False)
            assert (await client.get("/healthz")).status_code == 200
            assert (await client.get("/readyz")).status_code == 503

        for wrong in (None, "sk-segue-guess"):
            async with SegueClient(address, tls=trust, api_key=wrong) as client:
                with pytest.raises(Unauthenticated):
                    await client.models()
        assert_silent(process, "guess", secret, key.sha256.hex())


async def test_a_key_opens_both_apis_up_to_its_limit(ours: Authority, tmp_path: Path) -> None:
    secret, key = mint("alice", KeyLimits(max_concurrent_requests=1))
    (tmp_path / "keys").write_text(key.line())
    async with secured(ours, "--api-keys", str(tmp_path / "keys")) as (process, files):
        trust = TlsFiles(ca=files.ca)
        workers = await attach_pair(process, ours)
        address, http = f"127.0.0.1:{process.ports['grpc']}", process.ports["http"]
        async with SegueClient(address, tls=trust, api_key=secret) as client:
            assert await client.models() == ["tiny"]
            assert (await client.generate(PROMPT, max_tokens=3, temperature=0)).finish_reason == "length"
            workers[1].go.clear()
            stream = client.stream(PROMPT, max_tokens=5, temperature=0)
            await anext(stream)
            with pytest.raises(Overloaded, match="'alice' has 1 requests running") as refusal:
                await client.generate(PROMPT, max_tokens=3)
            assert refusal.value.retry_after_s > 0
            async with openai.AsyncOpenAI(
                base_url=f"https://127.0.0.1:{http}/v1",
                api_key=secret,
                max_retries=0,
                http_client=openai.DefaultAsyncHttpxClient(verify=client_context(trust)),
            ) as sdk:
                with pytest.raises(openai.RateLimitError) as limited:
                    await sdk.completions.create(model="tiny", prompt="x", max_tokens=3)
                assert int(limited.value.response.headers["Retry-After"]) >= 1
                workers[1].go.set()
                assert [delta async for delta in stream]
                completion = await sdk.completions.create(model="tiny", prompt="x", max_tokens=3)
                assert completion.choices[0].finish_reason == "length"
                # A client that leaves gives its slot back, over either API.
                workers[1].go.clear()
                async for _ in client.stream(PROMPT, max_tokens=5, temperature=0):
                    break
                events = await until_admitted(lambda: sdk.completions.create(**STREAMED))
                await events.close()
                workers[1].go.set()
                await until_admitted(lambda: sdk.completions.create(model="tiny", prompt="x", max_tokens=3))
                with pytest.raises(openai.AuthenticationError):
                    await sdk.with_options(api_key="sk-segue-other").models.list()
        await stop_all(workers)
        assert_silent(process, secret, key.sha256.hex())


async def until_admitted(ask: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(30):
        while True:
            try:
                return await ask()
            except openai.RateLimitError:
                await asyncio.sleep(0.01)


def assert_silent(process: Process, *words: str) -> None:
    """Nothing secret is in what the process has printed."""
    told = "".join(process.noise) + str(process.log)
    assert [word for word in (*words, "PRIVATE KEY") if word in told] == []
    assert process.faults == []


async def attach_pair(process: Process, ours: Authority) -> list[ScriptedWorker]:
    address = f"127.0.0.1:{process.ports['workers']}"
    workers = [
        ScriptedWorker(address, "prefill-0", Role.ROLE_PREFILL, tls=ours.source("prefill", "prefill-0")),
        ScriptedWorker(address, "decode-0", Role.ROLE_DECODE, tls=ours.source("decode", "decode-0")),
    ]
    for worker in workers:
        await worker.attach()
    await until(lambda: sum(entry["event"] == "worker_ready" for entry in process.log) == 2)
    return workers


async def test_clients_need_a_certificate_where_a_ca_for_them_is_given(ours: Authority, strangers: Authority) -> None:
    async with secured(ours, "--public-tls-ca", str(ours.folder / "ca.crt")) as (process, _):
        address, http = f"127.0.0.1:{process.ports['grpc']}", process.ports["http"]
        cases = [*outsiders(ours, strangers), ("a client", ours.source("client", "client"))]
        for who, tls in cases:
            code, _ = await grpc_outcome(address, tls, "", MODELS, ListModelsRequest())
            assert (code == grpc.StatusCode.OK) == (who == "a client"), (who, code)
            if tls is not None:
                said = tls_bytes(http, client_context(tls.files), "localhost")
                assert said.startswith(b"HTTP/1.1 200") == (who == "a client"), (who, said)
        assert plain_bytes(http) == b""


async def test_every_port_serves_a_rotated_certificate_without_a_restart(ours: Authority) -> None:
    async with secured(ours) as (process, files):
        names = {"http": "localhost", "grpc": "localhost"}
        before = {port: served_certificate(process.ports[port], files.ca, name) for port, name in names.items()}
        workers = await attach_pair(process, ours)
        ours.files("router", "router", "localhost", "127.0.0.1")
        for port, name in names.items():
            rotated = served_certificate(process.ports[port], files.ca, name)
            assert rotated != before[port]
            assert rotated == served_certificate(process.ports["http"], files.ca, name)
        assert await worker_certificate(process, ours) != before["http"]
        assert not any(worker.call.done() for worker in workers)  # What was connected stays.
        await stop_all(workers)


async def worker_certificate(process: Process, ours: Authority) -> bytes:
    """What the workers' port shows: it asks for a certificate, so one is shown."""
    import socket

    context = client_context(ours.files("decode", "decode-0"))
    context.check_hostname = True
    with (
        socket.create_connection(("127.0.0.1", process.ports["workers"]), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname=ROUTER_DNS) as connection,
    ):
        return connection.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("option", ["host", "worker_host"])
def test_plain_text_beyond_this_machine_must_be_asked_for(option: str) -> None:
    reachable = RouterSettings(model="m", **{option: "0.0.0.0"})
    with pytest.raises(SettingsError, match="in plain text") as refusal:
        open_security(reachable)
    assert "--insecure" in str(refusal.value)
    with capture_logs() as logs:
        open_security(reachable.model_copy(update={"insecure": True}))
    assert [entry["event"] for entry in logs] == ["plain_text_listener"]


def test_a_router_starts_only_with_a_routers_certificate(ours: Authority) -> None:
    worker, router = ours.files("prefill", "prefill-9"), ours.files("router", "r")
    with pytest.raises(SettingsError, match=r"is for segue://prefill/prefill-9, this process is segue://router/\*"):
        open_security(RouterSettings(model="m", tls=worker))
    with pytest.raises(SettingsError, match="needs a certificate"):
        open_security(RouterSettings(model="m", tls=TlsFiles(ca=router.ca)))
    with pytest.raises(SettingsError, match="besides the clients' CA"):
        open_security(RouterSettings(model="m", public_tls=TlsFiles(ca=router.ca)))
