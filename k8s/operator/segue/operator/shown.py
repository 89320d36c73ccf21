"""A PDCluster as people are shown it: read from the API server, without the operator's help."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from segue.cluster.pools import POOL_NAMES, Phase, PoolName, PoolsView, PoolView, PoolWorker
from segue.operator.api import Api
from segue.operator.names import COMPONENT, COMPONENTS, Manifest, labels_of, pool_name
from segue.operator.observed import workers_of
from segue.operator.workers import WORKER_PORT

_SUFFIXES: Final = {"": 1.0, "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3}
_ALL_SUFFIXES: Final = "".join(_SUFFIXES)


@dataclass(frozen=True, slots=True)
class ClusterObjects:
    """``cluster`` is None where there is no such PDCluster, ``pools`` has those that exist."""

    cluster: Manifest | None
    pools: Mapping[PoolName, Manifest]
    pods: Sequence[Manifest]


async def read_cluster(api: Api, namespace: str, name: str) -> ClusterObjects:
    """Raises ApiError, aiohttp.ClientError, OSError."""
    labels = labels_of(name)
    cluster = await api.get("PDCluster", namespace, name)
    pools = {one["metadata"]["name"]: one for one in await api.list("PDPool", namespace, labels)}
    pods = await api.list("Pod", namespace, labels)
    named = {role: pools[pool_name(name, role)] for role in POOL_NAMES if pool_name(name, role) in pools}
    return ClusterObjects(cluster, named, pods)


def view_of(seen: ClusterObjects) -> PoolsView:
    """The pools as on any other backend."""
    pools = tuple(_pool(role, pool, seen.pods) for role, pool in seen.pools.items())
    return PoolsView("kubernetes", pools, "" if seen.cluster is None else mode_of(seen.cluster))


def troubles(cluster: Manifest) -> list[str]:
    """What of a PDCluster isn't as it should be, by its conditions."""
    told = cluster.get("status", {}).get("conditions") or []
    if not told:
        return [
            "the operator hasn't looked at it yet; does it run (kubectl get pods -A -l app.kubernetes.io/part-of=segue)"
        ]
    return [f"{one['reason']}: {one['message']}" for one in told if one["status"] != "True"]


def mode_of(cluster: Manifest) -> str:
    return str(cluster["spec"].get("scaling", {}).get("mode", "External"))


def _pool(role: PoolName, pool: Manifest, pods: Sequence[Manifest]) -> PoolView:
    """With pods that are being deleted: they leave, too."""
    staying = {one.pod: one for one in workers_of(pods, role, {})}
    workers = []
    for pod in pods:
        name = pod["metadata"]["name"]
        one = staying.get(name)
        if one is not None:
            phase: Phase = (
                "leaving" if one.leaving or one.named else "running" if one.started_s is not None else "restarting"
            )
            place = one.node or "waiting for a node"
            address = f"{one.ip}:{WORKER_PORT}" if one.ip else ""
            workers.append(
                PoolWorker(
                    name, phase, place, f"pod {name}", one.restarts, address=address, resources=resources_of(pod)
                )
            )
        elif "deletionTimestamp" in pod["metadata"] and pod["metadata"]["labels"].get(COMPONENT) == COMPONENTS[role]:
            workers.append(PoolWorker(name, "leaving", pod.get("spec", {}).get("nodeName", ""), f"pod {name}"))
    status = pool.get("status", {})
    # Only scaling mode Joint recommends anything.
    return PoolView(role, pool["spec"]["replicas"], tuple(workers), status.get("recommended"), status.get("reason", ""))


def resources_of(pod: Manifest) -> dict[str, float]:
    """What a pod's containers have to themselves, by the names of :class:`PoolWorker`: requested CPUs, GPUs."""
    found = {"CPU": 0.0, "GPU": 0.0}
    for container in pod.get("spec", {}).get("containers", []):
        given = container.get("resources", {})
        found["CPU"] += _cpus(str(given.get("requests", {}).get("cpu", "0")))
        found["GPU"] += float(given.get("limits", {}).get("nvidia.com/gpu", 0))
    return {name: amount for name, amount in found.items() if amount}


def _cpus(quantity: str) -> float:
    """As the API server writes them: ``2``, ``500m``; as it may, ``1k`` or ``100u``."""
    number = quantity.rstrip(_ALL_SUFFIXES)
    return float(number) * _SUFFIXES[quantity[len(number) :]]
