"""What a PDCluster's objects should look like: the base's, with the cluster's names, labels and settings."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from segue.cluster.pools import PoolName
from segue.operator.base_manifests import base_manifest, labelled
from segue.operator.merge import merged
from segue.operator.names import API_VERSION, MANAGED_BY, Manifest, digest_of, labels_of, owned_by, pool_name
from segue.operator.router_processes import name_metrics_ports
from segue.operator.spec import ClusterSpec, SloClass

SCALER_PORT = 9500
_MODEL_DIGEST = "segue.dev/model"


def render_cluster(cluster: Manifest, spec: ClusterSpec) -> list[Manifest]:
    """All but the pools and their Deployments."""
    services = [base_manifest("Service", "segue"), base_manifest("Service", "segue-routers")]
    accounts = [base_manifest("ServiceAccount", "segue-router"), base_manifest("ServiceAccount", "segue-worker")]
    manifests = [_named(manifest, cluster) for manifest in (*accounts, *services)]
    if spec.scaling.mode == "External":
        manifests.append(_scaler_service(cluster))
    return [_settings(cluster, spec), *manifests, _router(cluster, spec)]


def render_pool(cluster: Manifest, spec: ClusterSpec, role: PoolName, replicas: int | None) -> Manifest:
    """``replicas`` None leaves that field to whoever scales the pool."""
    pool = spec.pool(role)
    manifest = _object(cluster, API_VERSION, "PDPool", pool_name(_name(cluster), role), owned_by(cluster))
    manifest["spec"] = {
        "cluster": _name(cluster),
        "role": role,
        "minReplicas": pool.min_replicas,
        "maxReplicas": pool.max_replicas,
        "drainTimeoutSeconds": pool.drain_timeout_seconds,
    }
    if replicas is not None:
        manifest["spec"]["replicas"] = replicas
    return manifest


def render_workers(cluster: Manifest, spec: ClusterSpec, role: PoolName, pool: Manifest, replicas: int) -> Manifest:
    """A pool's Deployment. ``pool`` is the PDPool as it was read."""
    settings = spec.pool(role)
    manifest = _named(base_manifest("Deployment", f"segue-{role}"), cluster)
    manifest["metadata"]["ownerReferences"] = owned_by(pool)
    manifest["spec"]["replicas"] = replicas
    template = _template(manifest, cluster, spec)
    pod = template["spec"]
    (container,) = pod["containers"]
    container["image"] = spec.images.worker
    _set_drain_timeout(pod, container, settings.drain_timeout_seconds)
    container["args"] += settings.args
    if settings.gpus:
        container["resources"] = merged(container["resources"], {"limits": {"nvidia.com/gpu": str(settings.gpus)}})
        pod["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    template["spec"] = merged(pod, settings.pod)
    return manifest


def _router(cluster: Manifest, spec: ClusterSpec) -> Manifest:
    manifest = _named(base_manifest("Deployment", "segue-router"), cluster)
    manifest["spec"]["replicas"] = spec.router.replicas
    template = _template(manifest, cluster, spec)
    (container,) = template["spec"]["containers"]
    container["image"] = spec.images.router
    container["args"] += [f"--slo-class={_slo(one)}" for one in spec.slo]
    if spec.scaling.mode == "External":
        container["args"].append(f"--scaler-port={SCALER_PORT}")
        container["ports"].append({"name": "scaler", "containerPort": SCALER_PORT})
    container["args"] += spec.router.args
    template["spec"] = merged(template["spec"], spec.router.pod)
    name_metrics_ports(template["spec"])
    return manifest


def _scaler_service(cluster: Manifest) -> Manifest:
    """For KEDA; as in components/keda, which a test holds it to."""
    manifest = _named(base_manifest("Service", "segue"), cluster)
    manifest["metadata"]["name"] = f"{_name(cluster)}-scaler"
    manifest["spec"]["ports"] = [{"name": "scaler", "port": SCALER_PORT, "targetPort": "scaler"}]
    return manifest


def _settings(cluster: Manifest, spec: ClusterSpec) -> Manifest:
    manifest = _object(cluster, "v1", "ConfigMap", f"{_name(cluster)}-model", owned_by(cluster))
    manifest["data"] = _model(spec)
    return manifest


def _model(spec: ClusterSpec) -> dict[str, str]:
    return {"MODEL": spec.model.path, "SERVED_MODEL_NAME": spec.model.served_name}


def _named(base: Manifest, cluster: Manifest) -> Manifest:
    """A copy with the cluster's name for the base's, in itself and in what it refers to; owned by the cluster."""
    name = _name(cluster)
    manifest = deepcopy(base)
    labelled(manifest, labels_of(name))
    manifest["metadata"]["name"] = _renamed(manifest["metadata"]["name"], name)
    manifest["metadata"]["namespace"] = cluster["metadata"]["namespace"]
    manifest["metadata"]["labels"][MANAGED_BY] = "segue-operator"
    manifest["metadata"]["ownerReferences"] = owned_by(cluster)
    if manifest["kind"] == "Deployment":
        pod = manifest["spec"]["template"]["spec"]
        pod["serviceAccountName"] = _renamed(pod["serviceAccountName"], name)
        for container in pod["containers"]:
            container["args"] = [_renamed_router(arg, name) for arg in container["args"]]
            for source in container["envFrom"]:
                source["configMapRef"]["name"] = _renamed(source["configMapRef"]["name"], name)
    return manifest


def _template(manifest: Manifest, cluster: Manifest, spec: ClusterSpec) -> Manifest:
    """The pod template, which changes with the settings: a change rolls the pods."""
    template: Manifest = manifest["spec"]["template"]
    template["metadata"]["annotations"] = {_MODEL_DIGEST: digest_of(_model(spec))}
    if spec.model.claim:
        claim = {"claimName": spec.model.claim, "readOnly": True}
        volume = {"name": "models", "emptyDir": None, "persistentVolumeClaim": claim}
        template["spec"] = merged(template["spec"], {"volumes": [volume]})
    return template


def _set_drain_timeout(pod: Manifest, container: Manifest, timeout_s: int) -> None:
    """The grace period stays as much longer than the drain as it is in the base."""
    option = "--drain-timeout="
    at, arg = next((at, arg) for at, arg in enumerate(container["args"]) if arg.startswith(option))
    pod["terminationGracePeriodSeconds"] += timeout_s - int(arg.removeprefix(option))
    container["args"][at] = f"{option}{timeout_s}"


def _slo(one: SloClass) -> str:
    figures = {"ttft_s": one.ttft_seconds, "tokens_per_s": one.tokens_per_second}
    return f"{one.name}=" + ",".join(f"{name}:{value:g}" for name, value in figures.items() if value is not None)


def _object(cluster: Manifest, api_version: str, kind: str, name: str, owners: list[Manifest]) -> Manifest:
    labels = {**labels_of(_name(cluster)), MANAGED_BY: "segue-operator"}
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": cluster["metadata"]["namespace"],
        "labels": labels,
        "ownerReferences": owners,
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata}


def _renamed(name: str, cluster: str) -> str:
    return cluster + name.removeprefix("segue")


def _renamed_router(arg: str, cluster: str) -> str:
    option = "--router=segue-routers:"
    return f"--router={cluster}-routers:{arg.removeprefix(option)}" if arg.startswith(option) else arg


def _name(cluster: Manifest) -> str:
    name: str = cluster["metadata"]["name"]
    return name
