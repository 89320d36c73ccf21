"""The worker's own port, and how a worker joins the mesh."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from segue.base.errors import SettingsError
from segue.base.identity import Kind, worker_dns
from segue.base.tls import TlsFiles, TlsSource
from segue.kv_transfer.connector_config import ConnectorConfig
from segue.proto.worker_pb2 import DescribeRequest, DrainRequest, TurnRequest
from segue.router.settings import RouterSettings
from segue.worker.attachment import Attachment
from segue.worker.mesh import open_mesh
from segue.worker.server import WorkerServer, WorkerService
from segue.worker.settings import WorkerSettings
from tests.security.mesh import Authority
from tests.security.peers import grpc_outcome, outsiders, plain_bytes, served_certificate
from tests.security.test_router_listeners import secured
from tests.worker.fakes import eventually
from tests.worker.test_attachment import Owner
from tests.worker.test_server import Served

DESCRIBE = "/segue.v1.Worker/Describe"
DRAIN = "/segue.v1.Worker/Drain"
TURN = "/segue.v1.Worker/Turn"
HEALTH = "/grpc.health.v1.Health/Check"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
DNS = worker_dns("w-0")


@pytest.fixture
async def served(ours: Authority) -> AsyncIterator[Served]:
    async with asyncio.TaskGroup() as tasks:
        made = Served(tasks)
        await made.server.stop()
        made.server = WorkerServer("127.0.0.1", 0, TlsSource(ours.files("prefill", "w-0")))
        await made.server.start(WorkerService(made.runtime, made.engine, made.drain, made.turn))
        yield made
        await made.server.stop()


async def test_only_routers_and_operators_may_ask_and_drain(
    served: Served, ours: Authority, strangers: Authority
) -> None:
    address = served.server.address
    calls: list[tuple[str, Any]] = [
        (DESCRIBE, DescribeRequest()),
        (DRAIN, DrainRequest(timeout_s=1)),
        (TURN, TurnRequest()),
        (REFLECTION, b""),
    ]
    for who, tls in outsiders(ours, strangers):
        for method, request in (*calls, (HEALTH, b"")):
            code, _ = await grpc_outcome(address, tls, DNS, method, request)
            assert code == grpc.StatusCode.UNAVAILABLE, (who, method)
    assert plain_bytes(int(address.rpartition(":")[2])) == b""
    refused: tuple[Kind, ...] = ("client", "prefill", "decode")
    for kind in refused:
        tls = ours.source(kind, "x")
        for method, request in calls:
            assert (await grpc_outcome(address, tls, DNS, method, request))[0] == grpc.StatusCode.PERMISSION_DENIED
        assert (await grpc_outcome(address, tls, DNS, HEALTH))[0] == grpc.StatusCode.OK
    assert served.drains == []
    allowed: tuple[Kind, ...] = ("router", "operator")
    for kind in allowed:
        tls = ours.source(kind, "x")
        for method, request in calls[:2]:
            assert (await grpc_outcome(address, tls, DNS, method, request))[0] == grpc.StatusCode.OK
    assert served.drains == [1, 1]


async def test_the_workers_port_serves_a_rotated_certificate(served: Served, ours: Authority) -> None:
    port, ca = int(served.server.address.rpartition(":")[2]), str(ours.folder / "ca.crt")
    first = served_certificate(port, ca, DNS)
    assert served_certificate(port, ca, DNS) == first
    ours.files("prefill", "w-0")
    assert served_certificate(port, ca, DNS) != first


async def test_a_worker_whose_certificate_is_renewed_attaches_without_a_restart(ours: Authority) -> None:
    files = ours.files("prefill", "w-0", expired=True)
    owner = Owner()
    async with secured(ours) as (process, _):
        with capture_logs() as logs:
            attachment = Attachment(f"127.0.0.1:{process.ports['workers']}", owner, TlsSource(files))
            task = asyncio.create_task(attachment.run())
            try:
                await eventually(lambda: any(entry["event"] == "router_unreachable" for entry in logs))
                assert not owner.frames
                assert any(entry["event"] == "certificate_expired" and entry["cert"] == files.cert for entry in logs)
                ours.files("prefill", "w-0")
                await eventually(lambda: owner.frames)
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task


async def test_a_worker_gives_itself_to_no_other_router(ours: Authority, strangers: Authority) -> None:
    async with secured(strangers) as (process, _):
        with capture_logs() as logs:
            address = f"127.0.0.1:{process.ports['workers']}"
            task = asyncio.create_task(Attachment(address, Owner(), ours.source("prefill", "w-0")).run())
            await eventually(lambda: any(entry["event"] == "router_unreachable" for entry in logs))
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert "CERTIFICATE_VERIFY_FAILED" in next(e["details"] for e in logs if e["event"] == "router_unreachable")
        assert not process.says("worker_attached")


def settings(**fields: object) -> WorkerSettings:
    return WorkerSettings(model="m", routers=("r:1",), worker_id="w-0", **fields)


def test_a_worker_starts_only_under_its_own_name(ours: Authority) -> None:
    tls = open_mesh(settings(tls=ours.files("prefill", "w-0")), "prefill")
    assert tls is not None
    with pytest.raises(SettingsError, match="is for segue://prefill/w-1, this process is segue://prefill/w-0"):
        open_mesh(settings(tls=ours.files("prefill", "w-1")), "prefill")
    with pytest.raises(SettingsError, match="this process is segue://decode/w-0"):
        open_mesh(settings(tls=ours.files("prefill", "w-0")), "decode")
    with pytest.raises(SettingsError, match="on both ends"):
        open_mesh(settings(tls=TlsFiles(ca=str(ours.folder / "ca.crt"))), "prefill")


def test_a_worker_listens_in_plain_text_for_others_only_when_told_to() -> None:
    with pytest.raises(SettingsError, match="--insecure"):
        open_mesh(settings(host="10.0.0.7"), "decode")
    assert open_mesh(settings(host="10.0.0.7", insecure=True), "decode") is None
    assert open_mesh(settings(), "decode") is None


def test_only_paths_travel_in_settings(ours: Authority) -> None:
    files = ours.files("prefill", "w-0")
    told = settings(tls=files)
    connector = ConnectorConfig("w-0", "e", "127.0.0.1:1", 30.0, "m", tls=files)
    # As vLLM hands it on, to another process maybe.
    assert ConnectorConfig.from_extra_config(json.loads(json.dumps(connector.as_extra_config()))) == connector
    assert told.engine_settings("prefill", "e").tls == files
    router = RouterSettings(model="m", tls=files, public_tls=files, api_keys="alice sha256:" + "ab" * 32)
    for shown in (repr(told), told.model_dump_json(), repr(router)):
        assert "PRIVATE KEY" not in shown
        assert "abab" not in shown
