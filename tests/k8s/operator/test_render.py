"""What the operator makes and what Kustomize makes of the same base are the same, but for what a PDCluster says."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from segue.cluster.pools import POOL_NAMES
from segue.operator.names import Manifest
from segue.operator.render import render_cluster, render_pool, render_workers
from segue.operator.spec import parse_spec
from tests.k8s.manifests import rendered
from tests.k8s.operator.objects import cluster


def made(**spec: Any) -> dict[tuple[str, str], Manifest]:
    """All objects of a PDCluster that is called as the base is, by kind and name."""
    owner = cluster("segue", **spec)
    parsed = parse_spec(owner["spec"])
    manifests = render_cluster(owner, parsed)
    for role in POOL_NAMES:
        pool = render_pool(owner, parsed, role, 1)
        pool["metadata"]["uid"] = f"uid-of-{role}"
        manifests += [pool, render_workers(owner, parsed, role, pool, 1)]
    return {(one["kind"], one["metadata"]["name"]): one for one in manifests}


def container(manifest: Manifest) -> Manifest:
    (only,) = manifest["spec"]["template"]["spec"]["containers"]
    return dict(only)


@pytest.mark.parametrize("name", ["segue-router", "segue-prefill", "segue-decode"])
def test_pods_are_those_of_the_base(name: str) -> None:
    ours = made(scaling={"mode": "Fixed"})["Deployment", name]
    (base,) = (
        one for one in deepcopy(rendered("dev-cpu")) if (one["kind"], one["metadata"]["name"]) == ("Deployment", name)
    )
    for manifest in (ours, base):
        # Kustomize names settings by a digest, the operator writes one on the pods; images and counts are the spec's.
        manifest["spec"].pop("replicas", None)
        template = manifest["spec"]["template"]
        template["metadata"].pop("annotations", None)
        one = template["spec"]["containers"][0]
        del one["image"], one["envFrom"]
        # Here every cluster has a name, so that two can share a namespace.
        labels = [manifest["spec"]["selector"]["matchLabels"], template["metadata"]["labels"]]
        labels += [each["labelSelector"]["matchLabels"] for each in template["spec"]["topologySpreadConstraints"]]
        for each in labels:
            each.pop("app.kubernetes.io/instance", None)
    assert ours["spec"] == base["spec"]


@pytest.mark.parametrize("name", ["segue", "segue-routers"])
def test_services_are_those_of_the_base(name: str) -> None:
    ours = made()["Service", name]["spec"]
    (base,) = (
        one["spec"] for one in rendered("dev-cpu") if (one["kind"], one["metadata"]["name"]) == ("Service", name)
    )
    assert ours.pop("selector").items() >= base["selector"].items()
    assert ours == {field: value for field, value in base.items() if field != "selector"}


def test_the_scalers_service_is_that_of_the_keda_component() -> None:
    ours = made()["Service", "segue-scaler"]["spec"]
    (base,) = (one["spec"] for one in rendered("gpu") if one["metadata"]["name"] == "segue-scaler")
    assert ours["selector"].items() >= base["selector"].items()
    assert ours["ports"][0].items() >= base["ports"][0].items()
    router = container(made()["Deployment", "segue-router"])
    assert "--scaler-port=9500" in router["args"]
    assert {"name": "scaler", "containerPort": 9500} in router["ports"]


def test_names_follow_the_cluster() -> None:
    owner = cluster("chat")
    spec = parse_spec(owner["spec"])
    names = {one["metadata"]["name"] for one in render_cluster(owner, spec)}
    assert names == {"chat", "chat-routers", "chat-scaler", "chat-model", "chat-router", "chat-worker"}
    pool = render_pool(owner, spec, "decode", None)
    pool["metadata"]["uid"] = "u"
    workers = render_workers(owner, spec, "decode", pool, 2)
    assert "--router=chat-routers:9100" in container(workers)["args"]
    assert container(workers)["envFrom"] == [{"configMapRef": {"name": "chat-model"}}]
    assert workers["spec"]["template"]["spec"]["serviceAccountName"] == "chat-worker"
    text = str(workers["spec"]).replace("segue-worker:0.1.0", "")
    assert "segue-" not in text, "a name of the base is left"


def test_the_grace_period_follows_the_drain_timeout() -> None:
    workers = made(decode={"drainTimeoutSeconds": 600})["Deployment", "segue-decode"]
    assert "--drain-timeout=600" in container(workers)["args"]
    assert workers["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 620


def test_another_model_rolls_all_pods() -> None:
    one, other = made(), made(model={"path": "/models/other", "servedName": "other"})
    for name in ("segue-router", "segue-prefill", "segue-decode"):
        digests = [each["Deployment", name]["spec"]["template"]["metadata"]["annotations"] for each in (one, other)]
        assert digests[0] != digests[1]


def test_promises_become_the_routers_options() -> None:
    slo = [{"class": "interactive", "ttftSeconds": 0.5, "tokensPerSecond": 30}, {"class": "batch"}]
    args = container(made(slo=slo)["Deployment", "segue-router"])["args"]
    assert "--slo-class=interactive=ttft_s:0.5,tokens_per_s:30" in args
    assert "--slo-class=batch=" in args


def test_each_process_of_a_router_has_a_named_port_for_its_metrics() -> None:
    def ports(**router: Any) -> dict[str, int]:
        declared = container(made(router=router)["Deployment", "segue-router"])["ports"]
        return {one["name"]: one["containerPort"] for one in declared if one["name"].startswith("metrics")}

    assert ports() == {"metrics": 9400}
    further = {"metrics-1": 9401, "metrics-2": 9402}
    assert ports(args=["--processes", "3"]) == {"metrics": 9400} | further
    own = {"containers": [{"name": "router", "ports": [{"name": "mine", "containerPort": 9401}]}]}
    assert ports(args=["--processes=2"], pod=own) == {"metrics": 9400}


def test_a_patch_reaches_named_containers_and_volumes_and_leaves_the_rest() -> None:
    pod = {
        "nodeSelector": {"gpu": "h100"},
        "containers": [{"name": "worker", "resources": {"limits": {"memory": "64Gi"}}}],
        "volumes": [{"name": "shm", "emptyDir": {"sizeLimit": "16Gi"}}, {"name": "more", "emptyDir": {}}],
    }
    ours = made(decode={"pod": pod, "gpus": 2, "args": ["--transport=nixl"]})["Deployment", "segue-decode"]
    spec = ours["spec"]["template"]["spec"]
    assert spec["nodeSelector"] == {"gpu": "h100"}
    assert container(ours)["resources"]["limits"] == {"memory": "64Gi", "nvidia.com/gpu": "2"}
    assert container(ours)["resources"]["requests"]["cpu"] == "2"
    assert container(ours)["args"][-1] == "--transport=nixl"
    volumes = {one["name"]: one for one in spec["volumes"]}
    assert volumes["shm"] == {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}
    assert set(volumes) == {"models", "tmp", "cache", "shm", "more"}


def test_a_model_from_a_claim_is_mounted_where_the_base_has_an_empty_folder() -> None:
    ours = made(model={"path": "/models/x", "servedName": "x", "claim": "models"})
    for name in ("segue-router", "segue-prefill"):
        volumes = {one["name"]: one for one in ours["Deployment", name]["spec"]["template"]["spec"]["volumes"]}
        claim = {"claimName": "models", "readOnly": True}
        assert volumes["models"] == {"name": "models", "persistentVolumeClaim": claim}
