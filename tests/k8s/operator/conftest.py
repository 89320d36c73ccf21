"""The operator as it runs, with kmock for an API server and fake nodes under it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kmock
import kopf
import pytest
import yaml

from segue.operator.api import Api
from segue.operator.main import OperatorSettings, operate
from segue.operator.names import Manifest
from tests.k8s.operator.api_server import ApiServer
from tests.k8s.operator.nodes import FakeWorkers, Nodes
from tests.k8s.operator.objects import cluster
from tests.k8s.operator.real_server import Server, running_server
from tests.k8s.operator.schemas import allowed_calls


@dataclass
class World:
    """``settle`` lets nodes and operator work until something holds."""

    api: ApiServer
    workers: FakeWorkers
    nodes: Nodes

    async def settle(self, holds: Callable[[], Any]) -> None:
        async def until() -> None:
            while not holds():
                await self.nodes.step()
                await asyncio.sleep(0.05)

        await asyncio.wait_for(until(), 60)

    async def looks(self, count: int) -> None:
        """Until the operator has looked so often again, with nothing else going on."""
        seen = self._looks()
        await self.settle(lambda: self._looks() >= seen + count)

    def _looks(self) -> int:
        return self.api.calls.count(("get", "segue.dev", "pdclusters"))

    def condition(self, kind: str, name: str, which: str) -> dict[str, Any]:
        """Empty while there is none."""
        live = self.api.find(kind, name) or {}
        found = live.get("status", {}).get("conditions", [])
        return next((one for one in found if one["type"] == which), {})

    def login(self) -> kopf.ConnectionInfo:
        return kopf.ConnectionInfo(server=str(self.api.url))

    def kubeconfig(self, folder: Path) -> str:
        """A user's file for kubectl; its path."""
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{"name": "here", "context": {"cluster": "here", "user": "me"}}],
            "clusters": [{"name": "here", "cluster": {"server": str(self.api.url)}}],
            "users": [{"name": "me", "user": {"token": "secret"}}],
        }
        (folder / "config").write_text(yaml.safe_dump(config))
        return str(folder / "config")

    @asynccontextmanager
    async def operator(self) -> AsyncIterator[None]:
        """One that runs, watching all namespaces, until the block ends."""
        stop, ready = threading.Event(), threading.Event()
        # In a loop of its own, as it runs: kopf takes every task of its loop for one of its own.
        running = asyncio.create_task(asyncio.to_thread(asyncio.run, self._operate(stop, ready)))
        try:
            await self.settle(lambda: ready.is_set() or running.done())
            assert ready.is_set(), running
            yield
        finally:
            stop.set()
            await asyncio.wait_for(running, 60)

    async def _operate(self, stop: threading.Event, ready: threading.Event) -> None:
        settings = OperatorSettings(health_port=0)
        await operate(settings, login_source=self.login, workers=self.workers, stop=stop, ready=ready)

    async def scale(self, pool: str, replicas: int) -> None:
        """As kubectl scale does: by the scale subresource."""
        client = self.api.servers[0].client
        url = f"/apis/segue.dev/v1alpha1/namespaces/segue/pdpools/{pool}/scale"
        answer = await client.patch(
            url, json={"spec": {"replicas": replicas}}, headers={"Content-Type": "application/merge-patch+json"}
        )
        assert answer.status == 200, await answer.text()

    async def put(self, **spec: Any) -> None:
        """Make or change the PDCluster of the tests, chat."""
        known = self.api.find("PDCluster", "chat")
        manifest = cluster(**spec)
        if known is not None:
            manifest["metadata"] = known["metadata"]
            manifest["status"] = known.get("status", {})
        await self.api.write("PDCluster", manifest)

    def replicas(self, kind: str, name: str) -> int:
        live = self.api.find(kind, name)
        return -1 if live is None else int(live["spec"]["replicas"])

    def ready(self) -> bool:
        return self.condition("PDCluster", "chat", "Ready").get("status") == "True"


@pytest.fixture
async def world() -> AsyncIterator[World]:
    api = ApiServer()
    async with api, kmock.Server(api):
        workers = FakeWorkers()
        yield World(api, workers, Nodes(api, workers))
        assert not (forbidden := set(api.calls) - allowed_calls()), f"the ClusterRole doesn't allow {forbidden}"


@pytest.fixture
def manifest() -> Manifest:
    return cluster()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A real one."""
    with running_server(tmp_path_factory.mktemp("kubernetes")) as made:
        yield made


@pytest.fixture
async def api(server: Server) -> AsyncIterator[Api]:
    """As the real server's administrator."""
    async with Api(server.login) as made:
        yield made
