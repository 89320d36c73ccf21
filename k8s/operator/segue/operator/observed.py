"""What the operator reads from the cluster, as values that decisions are made of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from segue.cluster.pools import PoolName
from segue.operator.names import COMPONENT, COMPONENTS, LEAVE_FIRST, LEAVING_SINCE, Manifest
from segue.operator.shrink import Load, Worker


@dataclass(frozen=True, slots=True)
class Recommendation:
    """How many workers the policy wants a pool to have, and why."""

    workers: int
    reason: str


@dataclass(frozen=True, slots=True)
class JointDecision:
    """``pools`` are those that change now, and to how many workers; ``wanted`` is what the policy wants of both, empty
    where nothing was decided. ``reason`` is for both together."""

    pools: Mapping[PoolName, int] = field(default_factory=dict)
    wanted: Mapping[PoolName, Recommendation] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Observed:
    """Of one PDCluster: its objects by kind and name, its workers, and what scaling mode Joint has decided."""

    objects: Mapping[tuple[str, str], Manifest] = field(default_factory=dict)
    workers: Mapping[PoolName, tuple[Worker, ...]] = field(default_factory=dict)
    joint: JointDecision = JointDecision()

    def object(self, kind: str, name: str) -> Manifest | None:
        return self.objects.get((kind, name))


def workers_of(pods: Iterable[Manifest], role: PoolName, loads: Mapping[str, Load]) -> tuple[Worker, ...]:
    """A pool's pods, without those that are being deleted or have ended for good. ``loads`` by pod's name."""
    return tuple(
        _worker(pod, loads.get(pod["metadata"]["name"]))
        for pod in pods
        if pod["metadata"].get("labels", {}).get(COMPONENT) == COMPONENTS[role] and not _over(pod)
    )


def _over(pod: Manifest) -> bool:
    return "deletionTimestamp" in pod["metadata"] or pod.get("status", {}).get("phase") in {"Succeeded", "Failed"}


def _worker(pod: Manifest, load: Load | None) -> Worker:
    status = pod.get("status", {})
    annotations = pod["metadata"].get("annotations") or {}
    container: Manifest = next(iter(status.get("containerStatuses") or []), {})
    started = container.get("state", {}).get("running", {}).get("startedAt")
    return Worker(
        pod=pod["metadata"]["name"],
        ip=status.get("podIP", ""),
        ready=_condition(status, "Ready") == "True",
        started_s=None if started is None else unix_s(started),
        restarts=container.get("restartCount", 0),
        leaving_since_s=_number(annotations.get(LEAVING_SINCE)),
        named_since_s=_number(annotations.get(LEAVE_FIRST)),
        load=load,
        node=pod.get("spec", {}).get("nodeName", ""),
    )


def rolling(deployment: Manifest) -> bool:
    """Whether its pods are being replaced by newer ones. A roll-out that has been given up doesn't count."""
    status = deployment.get("status", {})
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        # The controller hasn't looked yet: what it says is of before.
        return True
    if _condition(status, "Progressing") == "False":
        return False
    return bool(status.get("updatedReplicas", 0) < status.get("replicas", 0))


def _condition(status: Mapping[str, Any], kind: str) -> str:
    return next((one["status"] for one in status.get("conditions") or [] if one["type"] == kind), "Unknown")


def _number(text: str | None) -> float | None:
    """Somebody may have written anything; what isn't a number is from the beginning of time: its drain is over."""
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return 0.0


def unix_s(timestamp: str) -> float:
    """Of a Kubernetes time."""
    return datetime.fromisoformat(timestamp).timestamp()


def timestamp(unix_s: float) -> str:
    """A Kubernetes time; whole seconds, as it wants them."""
    return datetime.fromtimestamp(int(unix_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
