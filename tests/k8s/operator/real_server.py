"""A real API server and its etcd, where ``KUBE_APISERVER`` and ``ETCD`` name the binaries."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import kopf
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from segue.operator.names import Manifest
from tests.k8s.operator.schemas import COMPONENT

BINARIES = [os.environ.get(name, "") for name in ("KUBE_APISERVER", "ETCD")]

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


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """Until the block ends; with our definitions, and the namespace segue."""
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
    await _until(server, "GET", "/readyz", None, {200})
    for path in sorted(COMPONENT.glob("crd-*.yaml")):
        definition = yaml.safe_load(path.read_text())
        status, said = await server.call("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", definition)
        assert status == 201, said.get("message", said)
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
