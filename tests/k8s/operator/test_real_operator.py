"""The operator as it runs, and all overlays, before a real API server; controllers and kubelets are in tests' hands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from typing import Any

import pytest
import yaml

from segue.operator.api import Api
from segue.operator.main import OperatorSettings, operate
from segue.operator.names import DELETION_COST, Manifest
from segue.operator.shrink import Load
from tests.k8s.manifests import OVERLAYS, rendered, with_what_the_operator_makes
from tests.k8s.operator.nodes import FakeWorkers
from tests.k8s.operator.objects import cluster
from tests.k8s.operator.real_server import BINARIES, Server
from tests.k8s.operator.schemas import COMPONENT

pytestmark = pytest.mark.skipif(not all(BINARIES), reason="KUBE_APISERVER and ETCD don't name the binaries")

APPLY = "application/apply-patch+yaml"
MERGE = "application/merge-patch+json"
# Of kinds that others define, and that no server has without them.
THEIRS = frozenset({"keda.sh", "monitoring.coreos.com", "cert-manager.io"})


class Paths:
    """Where objects are, by what the server says of its kinds."""

    def __init__(self) -> None:
        self._kinds: dict[tuple[str, str], tuple[str, bool]] = {}

    @classmethod
    async def of(cls, server: Server) -> Paths:
        paths = cls()
        _, groups = await server.call("GET", "/apis")
        versions = [version["groupVersion"] for group in groups["groups"] for version in group["versions"]]
        for version in ["v1", *versions]:
            root = f"/api/{version}" if version == "v1" else f"/apis/{version}"
            _, known = await server.call("GET", root)
            for one in known["resources"]:
                if "/" not in one["name"]:
                    paths._kinds[version, one["kind"]] = (f"{root}|{one['name']}", one["namespaced"])
        return paths

    def path(self, manifest: Manifest) -> str | None:
        """None: the server has no such kind."""
        found = self._kinds.get((manifest["apiVersion"], manifest["kind"]))
        if found is None:
            return None
        root, plural = found[0].split("|")
        place = f"/namespaces/{manifest['metadata'].get('namespace', 'segue')}" if found[1] else ""
        return f"{root}{place}/{plural}/{manifest['metadata']['name']}"


@pytest.mark.parametrize("overlay", OVERLAYS)
async def test_a_real_server_takes_every_overlay(server: Server, overlay: str) -> None:
    paths = await Paths.of(server)
    for manifest in with_what_the_operator_makes(rendered(overlay)):
        path = paths.path(manifest)
        if path is None:
            assert manifest["apiVersion"].partition("/")[0] in THEIRS, manifest
            continue
        metadata = {name: value for name, value in manifest["metadata"].items() if name != "uid"}
        asked = f"{path}?dryRun=All&force=true&fieldManager=tests&fieldValidation=Strict"
        status, said = await server.call("PATCH", asked, {**manifest, "metadata": metadata}, APPLY)
        assert status in {200, 201}, said["message"]


class Nodes:
    """What Deployments ask for becomes pods, ready unless they drain; those that are too many go by their cost."""

    def __init__(self, server: Server, api: Api, workers: FakeWorkers) -> None:
        self._server = server
        self._api = api
        self._workers = workers
        self._made = 0
        self.deleted: list[str] = []

    async def pods(self, deployment: Manifest) -> list[Manifest]:
        return await self._api.list("Pod", "segue", deployment["spec"]["selector"]["matchLabels"])

    async def step(self, instance: str) -> None:
        for deployment in await self._api.list("Deployment", "segue", {"app.kubernetes.io/instance": instance}):
            wanted, pods = deployment["spec"]["replicas"], await self.pods(deployment)
            for _ in range(wanted - len(pods)):
                await self._start(deployment)
            for pod in sorted(pods, key=_cost)[: max(0, len(pods) - wanted)]:
                self.deleted.append(pod["metadata"]["name"])
                await self._call("DELETE", f"pods/{pod['metadata']['name']}", {"gracePeriodSeconds": 0})
            for pod in await self.pods(deployment):
                await self._say_ready(pod)
            ready = {
                "replicas": wanted,
                "updatedReplicas": wanted,
                "readyReplicas": wanted,
                "availableReplicas": wanted,
            }
            seen = {"observedGeneration": deployment["metadata"]["generation"], **ready}
            name = deployment["metadata"]["name"]
            await self._call("PATCH", f"deployments/{name}/status", {"status": seen}, "/apis/apps/v1")

    async def _start(self, deployment: Manifest) -> None:
        self._made += 1
        template = deepcopy(deployment["spec"]["template"])
        name = f"{deployment['metadata']['name']}-{self._made}"
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {**template["metadata"], "name": name}}
        # Nobody schedules or runs it: it only has to be there.
        container = {"name": "worker", "image": "none"}
        await self._call("POST", "pods", {**pod, "spec": {"nodeName": "node-1", "containers": [container]}})

    async def _say_ready(self, pod: Manifest) -> None:
        name = pod["metadata"]["name"]
        draining = self._workers.load.get(name, Load()).draining
        number = name.rpartition("-")[2]
        status = {
            "phase": "Running",
            "podIP": f"10.0.0.{number}",
            "podIPs": [{"ip": f"10.0.0.{number}"}],
            "conditions": [{"type": "Ready", "status": "False" if draining else "True"}],
            "containerStatuses": [
                {
                    "name": "worker",
                    "image": "none",
                    "imageID": "none",
                    "ready": not draining,
                    "restartCount": 0,
                    "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
                }
            ],
        }
        await self._call("PATCH", f"pods/{name}/status", {"status": status})

    async def _call(self, method: str, path: str, body: Manifest, root: str = "/api/v1") -> None:
        content = MERGE if method == "PATCH" else "application/json"
        status, said = await self._server.call(method, f"{root}/namespaces/segue/{path}", body, content)
        assert status in {200, 201}, said


def _cost(pod: Manifest) -> int:
    return int((pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0"))


async def _operators_own(server: Server) -> Server:
    """The server as the operator's service account reaches it."""
    paths = await Paths.of(server)
    for manifest in yaml.safe_load_all((COMPONENT / "rights.yaml").read_text()):
        path = paths.path(manifest)
        status, said = await server.call("PATCH", f"{path}?fieldManager=tests&force=true", manifest, APPLY)
        assert status in {200, 201}, said
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    path = "/api/v1/namespaces/segue/serviceaccounts/segue-operator/token"
    status, said = await server.call("POST", path, request)
    assert status == 201, said
    return Server(server.url, said["status"]["token"])


@asynccontextmanager
async def _operator(server: Server, workers: FakeWorkers) -> AsyncIterator[None]:
    stop, ready = threading.Event(), threading.Event()
    settings = OperatorSettings(health_port=0)

    def run() -> None:  # In a loop of its own: kopf takes every task of its loop for one of its own.
        asyncio.run(operate(settings, login_source=server.login, workers=workers, stop=stop, ready=ready))

    running = asyncio.create_task(asyncio.to_thread(run))
    try:
        while not ready.is_set():
            assert not running.done(), running
            await asyncio.sleep(0.05)
        yield
    finally:
        stop.set()
        await asyncio.wait_for(running, 60)


async def _until(holds: Callable[[], Awaitable[Any]], step: Callable[[], Awaitable[None]]) -> None:
    async with asyncio.timeout(90):
        while not await holds():
            await step()
            await asyncio.sleep(0.2)


async def test_the_operator_serves_a_cluster_with_no_more_than_its_own_rights(server: Server, api: Api) -> None:
    workers = FakeWorkers()
    nodes = Nodes(server, api, workers)
    decode = "/apis/segue.dev/v1alpha1/namespaces/segue/pdpools/whole-decode"

    async def pods() -> list[str]:
        deployment = await api.get("Deployment", "segue", "whole-decode")
        return [] if deployment is None else [pod["metadata"]["name"] for pod in await nodes.pods(deployment)]

    async def settled(count: int) -> bool:
        status = ((await api.get("PDPool", "segue", "whole-decode")) or {}).get("status", {})
        return (len(await pods()), status.get("ready"), status.get("draining")) == (count, count, 0)

    async with _operator(await _operators_own(server), workers):
        manifest = cluster("whole")
        manifest["metadata"] = {"name": "whole", "namespace": "segue"}
        await server.call("POST", "/apis/segue.dev/v1alpha1/namespaces/segue/pdclusters", manifest)
        for count in (1, 3, 1):
            if await pods():
                status, said = await server.call("PATCH", f"{decode}/scale", {"spec": {"replicas": count}}, MERGE)
                assert status == 200, said
            await _until(lambda count=count: settled(count), lambda: nodes.step("whole"))  # type: ignore[misc]
        whole = await api.get("PDCluster", "segue", "whole")
    assert whole is not None
    conditions = {one["type"]: one["status"] for one in whole["status"]["conditions"]}
    assert conditions["Accepted"] == "True"
    assert conditions["Ready"] == "True"
    assert len(workers.told) == 2
    assert sorted(nodes.deleted) == sorted(workers.told), "who goes has been told to drain first"
