"""What to do about a PDCluster, from what it asks for and what there is. No I/O; everything needed is passed in."""

from __future__ import annotations

from dataclasses import dataclass

from segue.cluster.pools import POOL_NAMES, PoolName
from segue.operator.actions import Action, Annotate, Apply, Delete, Drain, Plan, Tell
from segue.operator.merge import covers
from segue.operator.names import (
    APPLIED,
    COST_OF_LEAVERS,
    DELETION_COST,
    LEAVE_FIRST,
    LEAVING_SINCE,
    MANAGER,
    SCALE_MANAGER,
    Manifest,
    digest_of,
    pool_name,
)
from segue.operator.observed import Observed, rolling
from segue.operator.render import render_cluster, render_pool, render_workers
from segue.operator.shrink import PoolSize, Resize, resize
from segue.operator.spec import BadSpec, ClusterSpec, parse_spec
from segue.operator.status import cluster_status, pool_status, refused_status

# How soon to look again: nothing goes on; the routers' figures are wanted; pods come or go.
_CALM_S, _JOINT_S, _BUSY_S = 10.0, 5.0, 1.0


def desired_state(cluster: Manifest, seen: Observed, now_s: float) -> Plan:
    """One look at one PDCluster, which must have been read from the API server."""
    if "deletionTimestamp" in cluster["metadata"]:
        return Plan()  # What it owns goes with it; each worker drains as its pod is deleted.
    try:
        spec = parse_spec(cluster["spec"])
    except BadSpec as error:
        return Plan(tuple(refused_status(cluster, str(error), seen, now_s)))
    look = _Look(cluster, spec, seen, now_s)
    actions: list[Action] = []
    for manifest in render_cluster(cluster, spec):
        actions += _applied(seen, manifest)
    actions += _no_longer_wanted(cluster, spec, seen)
    again_s = _JOINT_S if spec.scaling.mode == "Joint" else _CALM_S
    for role in POOL_NAMES:
        pool = seen.object("PDPool", pool_name(cluster["metadata"]["name"], role))
        actions += _pool(look, role, pool)
        if pool is None:
            again_s = _BUSY_S
            continue
        resized, taken = _workers(look, role, pool)
        actions += taken
        again_s = again_s if resized.settled else _BUSY_S
    actions += cluster_status(cluster, spec, seen, now_s)
    return Plan(tuple(actions), again_s)


@dataclass(frozen=True, slots=True)
class _Look:
    """What both pools' decisions start from."""

    cluster: Manifest
    spec: ClusterSpec
    seen: Observed
    now_s: float


def _pool(look: _Look, role: PoolName, pool: Manifest | None) -> list[Action]:
    """The PDPool itself. Its replicas are applied under another name than the rest, and in mode External never again
    once it exists: then they are somebody else's."""
    cluster, spec, seen = look.cluster, look.spec, look.seen
    if pool is None:
        first = render_pool(cluster, spec, role, spec.pool(role).replicas)
        return [
            Apply(first, SCALE_MANAGER, first=True),
            Apply(_with_digest(render_pool(cluster, spec, role, None)), MANAGER),
        ]
    now: int = pool["spec"]["replicas"]
    wanted = render_pool(cluster, spec, role, None)
    if spec.scaling.mode == "External":
        # A pool outside narrower bounds stays valid; they close in on it as whoever scales it brings it inside.
        wanted["spec"]["minReplicas"] = min(wanted["spec"]["minReplicas"], now)
        wanted["spec"]["maxReplicas"] = max(wanted["spec"]["maxReplicas"], now)
        return _applied(seen, wanted)
    replicas = _replicas(spec, role, now, seen)
    if replicas == now:
        return _applied(seen, wanted)
    # In one step with the bounds, which the number might break otherwise.
    reason = seen.joint.reason if spec.scaling.mode == "Joint" else "scaling.mode is Fixed and the PDCluster says so"
    told = Tell(pool, "Normal", "Scaled", f"from {now} to {replicas} workers: {reason}")
    return [Apply(render_pool(cluster, spec, role, replicas), SCALE_MANAGER), *_applied(seen, wanted), told]


def _replicas(spec: ClusterSpec, role: PoolName, now: int, seen: Observed) -> int:
    bounds = spec.pool(role)
    if spec.scaling.mode == "Fixed":
        return bounds.replicas
    wanted = seen.joint.pools.get(role, now)
    return min(bounds.max_replicas, max(bounds.min_replicas, wanted))


def _workers(look: _Look, role: PoolName, pool: Manifest) -> tuple[Resize, list[Action]]:
    """A pool's Deployment and workers. The number is what its PDPool says, whoever wrote that."""
    cluster, spec, seen, now_s = look.cluster, look.spec, look.seen, look.now_s
    desired: int = pool["spec"]["replicas"]
    live = seen.object("Deployment", pool["metadata"]["name"])
    workers = seen.workers.get(role, ())
    replicas = desired if live is None else live["spec"].get("replicas", 1)
    turning = live is not None and rolling(live)
    size = PoolSize(desired, replicas, workers, spec.pool(role).drain_timeout_seconds, turning)
    resized = resize(size, now_s)
    ips = {worker.pod: worker.ip for worker in workers}
    leaving: dict[str, str | None] = {LEAVING_SINCE: f"{now_s:.3f}", DELETION_COST: COST_OF_LEAVERS}
    staying: dict[str, str | None] = {LEAVING_SINCE: None, DELETION_COST: None, LEAVE_FIRST: None}
    actions: list[Action] = [Annotate(pod, leaving) for pod in resized.mark]
    actions += [Annotate(pod, staying) for pod in resized.recall]
    actions += [Drain(pod, ips[pod]) for pod in resized.tell if ips[pod]]
    actions += [
        Tell(pool, "Warning", "DrainTimedOut", f"{pod} has had its {size.drain_timeout_s:g} s and is let go as it is")
        for pod in resized.timed_out
        if resized.replicas < replicas  # Once, when it is let go.
    ]
    actions += _applied(seen, render_workers(cluster, spec, role, pool, resized.replicas))
    wanted = seen.joint.wanted.get(role) if spec.scaling.mode == "Joint" else None
    actions += pool_status(pool, size, resized, wanted, now_s)
    return resized, actions


def _applied(seen: Observed, manifest: Manifest) -> list[Action]:
    """Nothing if the object is there and has all of it."""
    wanted = _with_digest(manifest)
    live = seen.object(manifest["kind"], manifest["metadata"]["name"])
    return [] if live is not None and covers(live, wanted) else [Apply(wanted, first=live is None)]


def _with_digest(manifest: Manifest) -> Manifest:
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), APPLIED: digest_of(manifest)}
    return {**manifest, "metadata": {**metadata, "annotations": annotations}}


def _no_longer_wanted(cluster: Manifest, spec: ClusterSpec, seen: Observed) -> list[Action]:
    """Only the scaler's service depends on the spec."""
    scaler = seen.object("Service", f"{cluster['metadata']['name']}-scaler")
    return [Delete(scaler)] if scaler is not None and spec.scaling.mode != "External" else []
