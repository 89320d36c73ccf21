"""Kubernetes' own controllers and kubelets, as far as the operator sees them, and workers that say what they do."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

from segue.operator.names import DELETION_COST, Manifest
from segue.operator.observed import timestamp
from segue.operator.shrink import Load
from tests.k8s.operator.api_server import ApiServer


class FakeWorkers:
    """A :class:`segue.operator.workers.Workers`; ``load`` is by pod's name, ``told`` who was told to leave."""

    def __init__(self) -> None:
        self.load: dict[str, Load] = {}
        self.told: list[str] = []

    async def loads(self, ips: Mapping[str, str]) -> dict[str, Load]:
        return {pod: self.load.setdefault(pod, Load()) for pod in ips}

    async def drain(self, pod: str, ip: str) -> None:
        self.told.append(pod)
        self.load[pod] = replace(self.load.get(pod, Load()), draining=True)


class Nodes:
    """What Deployments ask for becomes pods, at once ready; those that are too many go in Kubernetes' order."""

    def __init__(self, api: ApiServer, workers: FakeWorkers) -> None:
        self._api = api
        self._workers = workers
        self._numbers = itertools.count()
        self.deleted: list[str] = []

    def pods(self, deployment: str) -> list[Manifest]:
        live = self._api.find("Deployment", deployment)
        assert live is not None, deployment
        wanted = live["spec"]["selector"]["matchLabels"].items()
        return [pod for pod in self._api.all("Pod") if wanted <= pod["metadata"]["labels"].items()]

    async def step(self) -> None:
        """All that a controller's loop and the kubelets do until nothing is left to do."""
        for name in self._names("Deployment"):
            if (deployment := self._api.find("Deployment", name)) is None:
                continue
            replicas = deployment["spec"]["replicas"]
            pods = self.pods(name)
            for _ in range(replicas - len(pods)):
                self._start(deployment)
            for pod in sorted(pods, key=self._rank)[: max(0, len(pods) - replicas)]:
                self.deleted.append(pod["metadata"]["name"])
                self._api.objects[self._api.key("Pod", "segue", pod["metadata"]["name"])].delete()
            ready = sum(self._ready(pod["metadata"]["name"]) for pod in self.pods(name))
            await self._api.write(
                "Deployment",
                {
                    **deployment,
                    "status": {
                        "observedGeneration": deployment["metadata"]["generation"],
                        "replicas": replicas,
                        "updatedReplicas": replicas,
                        "readyReplicas": ready,
                    },
                },
            )
        for name in self._names("Pod"):
            if (live := self._api.find("Pod", name)) is None:
                continue
            live["status"]["conditions"] = [{"type": "Ready", "status": str(self._ready(name))}]
            await self._api.write("Pod", live)

    def _names(self, kind: str) -> list[str]:
        """Names alone: what is written has to be as it is then, or it would undo what the operator does meanwhile."""
        return [one["metadata"]["name"] for one in self._api.all(kind)]

    def _ready(self, pod: str) -> bool:
        return not self._workers.load.get(pod, Load()).draining

    def _rank(self, pod: Manifest) -> tuple[bool, int]:
        """Of a ReplicaSet: those that aren't ready, then those of the least cost."""
        cost = int((pod["metadata"].get("annotations") or {}).get(DELETION_COST, "0"))
        return self._ready(pod["metadata"]["name"]), cost

    def _start(self, deployment: Manifest) -> None:
        number = next(self._numbers)
        template = deepcopy(deployment["spec"]["template"])
        name = f"{deployment['metadata']['name']}-{number}"
        self._api.place(
            "Pod",
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {**template["metadata"], "name": name, "namespace": deployment["metadata"]["namespace"]},
                "spec": {"nodeName": "node-1"},
                "status": {
                    "phase": "Running",
                    "podIP": f"10.0.0.{number + 1}",
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "containerStatuses": [
                        {"restartCount": 0, "state": {"running": {"startedAt": timestamp(1_000_000_000.0)}}}
                    ],
                },
            },
        )
