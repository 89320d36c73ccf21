"""Against a real API server, where ``KUBE_APISERVER`` and ``ETCD`` name the binaries: what our own can't vouch for."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from segue.operator.api import Api, ApiError
from segue.operator.names import MANAGER, SCALE_MANAGER, Manifest
from segue.operator.reconciler import Reconciler
from tests.k8s.operator.nodes import FakeWorkers
from tests.k8s.operator.objects import cluster
from tests.k8s.operator.schemas import COMPONENT

BINARIES = [os.environ.get(name, "") for name in ("KUBE_APISERVER", "ETCD")]

pytestmark = pytest.mark.skipif(not all(BINARIES), reason="KUBE_APISERVER and ETCD don't name the binaries")

START_S = 120.0


@dataclass
class Server:
    url: str
    token: str = field(repr=False)

    def login(self) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=self.url, token=self.token, insecure=True)

    async def call(
        self, method: str, path: str, body: Manifest | None = None, content: str = "application/json"
    ) -> tuple[int, Any]:
        """The status and the answer, whatever they are."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content}
        async with (
            aiohttp.ClientSession() as session,
            session.request(method, self.url + path, json=body, headers=headers, ssl=_trusting()) as answer,
        ):
            text = await answer.text()
            return answer.status, json.loads(text) if text.startswith("{") else text


def _trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def _running(*command: str, log: Path) -> Iterator[None]:
    with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT) as process:
        try:
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("kubernetes")
    clients, peers, port = _free_port(), _free_port(), _free_port()
    token = secrets.token_hex(16)
    (folder / "tokens.csv").write_text(f'{token},admin,admin,"system:masters"\n')
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    (folder / "accounts.key").write_bytes(
        key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    )
    etcd = f"http://127.0.0.1:{clients}"
    with ExitStack() as stack:
        stack.enter_context(
            _running(
                BINARIES[1],
                f"--data-dir={folder / 'etcd'}",
                f"--listen-client-urls={etcd}",
                f"--advertise-client-urls={etcd}",
                f"--listen-peer-urls=http://127.0.0.1:{peers}",
                "--unsafe-no-fsync",
                log=folder / "etcd.log",
            )
        )
        stack.enter_context(
            _running(
                BINARIES[0],
                f"--etcd-servers={etcd}",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                f"--secure-port={port}",
                f"--cert-dir={folder}",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--authorization-mode=RBAC",
                "--service-account-issuer=https://127.0.0.1",
                f"--service-account-key-file={folder / 'accounts.key'}",
                f"--service-account-signing-key-file={folder / 'accounts.key'}",
                "--service-cluster-ip-range=10.0.0.0/24",
                "--disable-admission-plugins=ServiceAccount",
                log=folder / "apiserver.log",
            )
        )
        made = Server(f"https://127.0.0.1:{port}", token)
        asyncio.run(asyncio.wait_for(_prepared(made), START_S))
        yield made


async def _prepared(server: Server) -> None:
    """With the definitions, and a namespace."""
    await _until(server, "GET", "/readyz", None, {200})
    for path in sorted(COMPONENT.glob("crd-*.yaml")):
        definition = yaml.safe_load(path.read_text())
        status, said = await server.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        assert status == 201, said
        plural = definition["spec"]["names"]["plural"]
        await _until(server, "GET", f"/apis/segue.dev/v1alpha1/{plural}", None, {200})
    await _until(server, "POST", "/api/v1/namespaces", {"metadata": {"name": "segue"}}, {201, 409})


async def _until(server: Server, method: str, path: str, body: Manifest | None, wanted: set[int]) -> None:
    while True:
        try:
            status, _ = await server.call(method, path, body)
        except aiohttp.ClientError:  # It doesn't listen yet.
            status = 0
        if status in wanted:
            return
        await asyncio.sleep(0.2)


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    async with Api(server.login) as made:
        yield made


async def _made(server: Server, name: str, **spec: Any) -> tuple[int, Any]:
    manifest = cluster(name, **spec)
    manifest["metadata"] = {"name": name, "namespace": "segue"}
    status, said = await server.call("POST", "/apis/segue.dev/v1alpha1/namespaces/segue/pdclusters", manifest)
    return status, said


async def _looked(api: Api, name: str, times: int = 2) -> None:
    reconciler = Reconciler(api, FakeWorkers())
    for _ in range(times):
        await reconciler.look("segue", name)


async def _pool(api: Api, name: str) -> Manifest:
    found = await api.get("PDPool", "segue", name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"scaling": {"mode": "Joint"}}, "scaling.mode Joint shares out a budget"),
        ({"budget": {"gpus": 3}, "decode": {"gpus": 3}}, "budget.gpus must hold one prefill worker"),
        ({"scaling": {"mode": "Auto"}}, 'supported values: "Fixed", "External", "Joint"'),
        ({"decode": {"replicas": 0}}, "greater than or equal to 1"),
    ],
)
async def test_the_server_refuses_a_bad_spec_with_a_clear_text(server: Server, spec: dict[str, Any], told: str) -> None:
    status, said = await _made(server, "bad", **spec)
    assert status == 422
    assert told in said["message"]


async def test_scale_reads_and_writes_replicas_alone(server: Server, api: Api) -> None:
    await _made(server, "scaled")
    await _looked(api, "scaled")
    path = "/apis/segue.dev/v1alpha1/namespaces/segue/pdpools/scaled-decode/scale"
    status, scale = await server.call("GET", path)
    assert (status, scale["kind"], scale["spec"]["replicas"]) == (200, "Scale", 1)
    assert "app.kubernetes.io/component=decode-worker" in scale["status"]["selector"]
    await api.patch("PDPool", "segue", "scaled-decode", {"spec": {"replicas": 3}}, "scale")
    await _looked(api, "scaled")
    pool = await _pool(api, "scaled-decode")
    assert pool["spec"]["replicas"] == 3, "what a scaler has written stays"
    deployment = await api.get("Deployment", "segue", "scaled-decode")
    assert deployment is not None
    assert deployment["spec"]["replicas"] == 3
    with pytest.raises(ApiError, match="is not between 1 and 64, the bounds in the PDCluster"):
        await api.patch("PDPool", "segue", "scaled-decode", {"spec": {"replicas": 65}}, "scale")


async def test_spec_and_status_are_written_apart(server: Server, api: Api) -> None:
    await _made(server, "apart")
    await _looked(api, "apart")
    before = await _pool(api, "apart-decode")
    await api.patch("PDPool", "segue", "apart-decode", {"status": {"ready": 99}})
    assert (await _pool(api, "apart-decode"))["status"] == before["status"], "not by way of the object"
    await api.patch("PDPool", "segue", "apart-decode", {"spec": {"replicas": 7}, "status": {"ready": 5}}, "status")
    after = await _pool(api, "apart-decode")
    assert (after["spec"], after["status"]["ready"]) == (before["spec"], 5), "the spec not by way of the status"
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


async def test_what_a_status_no_longer_says_is_gone_from_it(server: Server, api: Api) -> None:
    await _made(server, "told")
    await _looked(api, "told")
    pool = await _pool(api, "told-decode")
    told = {
        "apiVersion": pool["apiVersion"],
        "kind": pool["kind"],
        "metadata": {"name": "told-decode", "namespace": "segue"},
        "status": {**pool["status"], "recommended": 3, "reason": "mode Joint has said so"},
    }
    await api.apply(told, MANAGER, status=True)
    assert (await _pool(api, "told-decode"))["status"]["recommended"] == 3
    await _looked(api, "told")
    assert (await _pool(api, "told-decode"))["status"].keys().isdisjoint({"recommended", "reason"})


async def test_who_applies_what_is_kept_apart(server: Server, api: Api) -> None:
    await _made(server, "owned")
    await _looked(api, "owned")
    managers = {one["manager"] for one in (await _pool(api, "owned-decode"))["metadata"]["managedFields"]}
    assert {MANAGER, SCALE_MANAGER} <= managers
    # Somebody else's apply of what is ours is a conflict, unless it insists.
    path = "/apis/segue.dev/v1alpha1/namespaces/segue/pdpools/owned-decode?fieldManager=somebody"
    theirs = {
        "apiVersion": "segue.dev/v1alpha1",
        "kind": "PDPool",
        "metadata": {"name": "owned-decode"},
        "spec": {"drainTimeoutSeconds": 1},
    }
    status, said = await server.call("PATCH", path, theirs, "application/apply-patch+yaml")
    assert (status, MANAGER in said["message"] or SCALE_MANAGER in said["message"]) == (409, True)
    await server.call("PATCH", f"{path}&force=true", theirs, "application/apply-patch+yaml")
    await _looked(api, "owned")
    assert (await _pool(api, "owned-decode"))["spec"]["drainTimeoutSeconds"] == 120, "and is put right again"


async def test_looking_again_changes_nothing(server: Server, api: Api) -> None:
    await _made(server, "calm")
    await _looked(api, "calm", 3)
    kinds = ("ConfigMap", "Deployment", "PDPool", "Service", "ServiceAccount")
    labels = {"app.kubernetes.io/instance": "calm"}

    async def versions() -> dict[str, str]:
        return {
            f"{kind} {one['metadata']['name']}": one["metadata"]["resourceVersion"]
            for kind in kinds
            for one in await api.list(kind, "segue", labels)
        }

    before = await versions()
    await _looked(api, "calm", 3)
    assert await versions() == before
