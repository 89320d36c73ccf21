"""What a PDCluster and its pools say of themselves."""

from __future__ import annotations

from typing import Any, Final

from segue.cluster.pools import POOL_NAMES, PoolName
from segue.operator.actions import Action, Apply, Tell
from segue.operator.conditions import Condition, changed, conditions
from segue.operator.merge import covers
from segue.operator.names import API_VERSION, COMPONENT, COMPONENTS, Manifest, labels_of
from segue.operator.observed import Observed, Recommendation
from segue.operator.shrink import PoolSize, Resize
from segue.operator.spec import ClusterSpec

# What only scaling mode Joint has to say.
_OF_JOINT: Final = frozenset({"scaling", "recommended", "reason"})


def refused_status(cluster: Manifest, message: str, seen: Observed, now_s: float) -> list[Action]:
    """Of a cluster whose spec can't be followed. What runs goes on running as it was, and is told of as ever."""
    refused = Condition("Accepted", False, "InvalidSpec", f"{message}; nothing is changed until this is put right")
    return _told(cluster, _figures(cluster, seen), [refused, _serving(cluster, seen)], now_s)


def cluster_status(cluster: Manifest, spec: ClusterSpec, seen: Observed, now_s: float) -> list[Action]:
    status = _figures(cluster, seen)
    if spec.scaling.mode == "Joint":
        status["scaling"] = seen.joint.reason or "nothing has been measured yet"
    accepted = Condition("Accepted", True, "Valid", "the spec is followed")
    return _told(cluster, status, [accepted, _serving(cluster, seen)], now_s)


def _figures(cluster: Manifest, seen: Observed) -> dict[str, Any]:
    """Of what there is, whatever was asked for."""
    name = cluster["metadata"]["name"]
    return {
        "observedGeneration": _generation(cluster),
        "endpoint": f"http://{name}.{cluster['metadata']['namespace']}.svc:8000/v1",
        "routers": (seen.object("Deployment", f"{name}-router") or {}).get("status", {}).get("readyReplicas", 0),
        **{role: sum(one.ready for one in seen.workers.get(role, ())) for role in POOL_NAMES},
    }


def _serving(cluster: Manifest, seen: Observed) -> Condition:
    ready = _figures(cluster, seen)
    missing = [f"no {role} worker is ready" for role in POOL_NAMES if not ready[role]]
    missing += ["no router is ready"] * (not ready["routers"])
    if missing:
        return Condition("Ready", False, "NotServing", "; ".join(missing))
    counts = f"{ready['routers']} routers, {ready['prefill']} prefill and {ready['decode']} decode workers are ready"
    return Condition("Ready", True, "Serving", counts)


def pool_status(
    pool: Manifest, size: PoolSize, resized: Resize, wanted: Recommendation | None, now_s: float
) -> list[Action]:
    """``replicas`` counts those that weren't told to leave: that is what a scaler compares its own number with.
    ``wanted`` is scaling mode Joint's."""
    cluster = pool["spec"]["cluster"]
    staying = [worker for worker in size.workers if not worker.leaving]
    ready = sum(worker.ready for worker in staying)
    status: dict[str, Any] = {
        "observedGeneration": _generation(pool),
        "replicas": len(staying),
        "ready": ready,
        "draining": len(size.workers) - len(staying),
        "backlogTokens": sum(worker.load.waiting_tokens for worker in size.workers if worker.load is not None),
        "selector": selector(cluster, pool["spec"]["role"]),
    }
    if wanted is not None:
        status |= {"recommended": wanted.workers, "reason": wanted.reason}
    told = [
        Condition(
            "Ready",
            ready >= size.desired,
            "AllReady" if ready >= size.desired else "WorkersMissing",
            f"{ready} of {size.desired} workers are ready",
        ),
        Condition("Resizing", not resized.settled, *_resizing(size, resized)),
    ]
    return _told(pool, status, told, now_s)


def selector(cluster: str, role: PoolName) -> str:
    labels = {**labels_of(cluster), COMPONENT: COMPONENTS[role]}
    return ",".join(f"{key}={value}" for key, value in sorted(labels.items()))


def _resizing(size: PoolSize, resized: Resize) -> tuple[str, str]:
    """A reason and a message."""
    if resized.settled:
        return "Settled", f"the pool has the {size.desired} workers it should have"
    change = f"from {len(size.workers)} workers to {size.desired}"
    leaving = [worker.pod for worker in size.workers if worker.leaving or worker.pod in resized.mark]
    if leaving:
        return "Draining", f"{change}; leaving: {', '.join(leaving)}"
    if size.rolling and len(size.workers) > size.desired:
        return "RollingOut", f"{change}, once all pods are of the newest kind"
    return "Resizing", change


def _told(owner: Manifest, status: dict[str, Any], now: list[Condition], now_s: float) -> list[Action]:
    """Nothing if nothing has changed, so that a status isn't written with every look."""
    status = {**status, "conditions": conditions(owner, now, now_s)}
    actions: list[Action] = [
        Tell(owner, "Warning" if _bad(one) else "Normal", one.reason, one.message) for one in changed(owner, now)
    ]
    live = owner.get("status", {})
    # What is no longer said goes with the next apply, and is worth one.
    if not covers(live, status) or (live.keys() - status.keys()) & _OF_JOINT:
        manifest = {
            "apiVersion": API_VERSION,
            "kind": owner["kind"],
            "metadata": {"name": owner["metadata"]["name"], "namespace": owner["metadata"]["namespace"]},
            "status": status,
        }
        actions.append(Apply(manifest, status=True))
    return actions


def _bad(condition: Condition) -> bool:
    return condition.type == "Accepted" and not condition.true


def _generation(owner: Manifest) -> int:
    generation: int = owner["metadata"].get("generation", 0)
    return generation
