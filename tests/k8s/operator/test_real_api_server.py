"""Against a real API server, where ``KUBE_APISERVER`` and ``ETCD`` name the binaries: what our own can't vouch for."""

from __future__ import annotations

from typing import Any

import pytest

from segue.operator.api import Api, ApiError
from segue.operator.names import MANAGER, SCALE_MANAGER, Manifest
from segue.operator.reconciler import Reconciler
from tests.k8s.operator.nodes import FakeWorkers
from tests.k8s.operator.objects import cluster
from tests.k8s.operator.real_server import BINARIES, Server

pytestmark = pytest.mark.skipif(not all(BINARIES), reason="KUBE_APISERVER and ETCD don't name the binaries")


async def _made(server: Server, name: str, **spec: Any) -> tuple[int, Any]:
    manifest = cluster(name, **spec)
    manifest["metadata"] = {"name": name, "namespace": "segue"}
    status, said = await server.call("POST", "/apis/segue.dev/v1alpha1/namespaces/segue/pdclusters", manifest)
    return status, said


async def _looked(api: Api, name: str, times: int = 2) -> None:
    reconciler = Reconciler(api, FakeWorkers())
    for _ in range(times):
        await reconciler.look("segue", name)


async def _pool(api: Api, name: str) -> Manifest:
    found = await api.get("PDPool", "segue", name)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"scaling": {"mode": "Joint"}}, "scaling.mode Joint shares out a budget"),
        ({"budget": {"gpus": 3}, "decode": {"gpus": 3}}, "budget.gpus must hold one prefill worker"),
        ({"scaling": {"mode": "Auto"}}, 'supported values: "Fixed", "External", "Joint"'),
        ({"decode": {"replicas": 0}}, "greater than or equal to 1"),
    ],
)
async def test_the_server_refuses_a_bad_spec_with_a_clear_text(server: Server, spec: dict[str, Any], told: str) -> None:
    status, said = await _made(server, "bad", **spec)
    assert status == 422
    assert told in said["message"]


async def test_scale_reads_and_writes_replicas_alone(server: Server, api: Api) -> None:
    await _made(server, "scaled")
    await _looked(api, "scaled")
    path = "/apis/segue.dev/v1alpha1/namespaces/segue/pdpools/scaled-decode/scale"
    status, scale = await server.call("GET", path)
    assert (status, scale["kind"], scale["spec"]["replicas"]) == (200, "Scale", 1)
    assert "app.kubernetes.io/component=decode-worker" in scale["status"]["selector"]
    await api.patch("PDPool", "segue", "scaled-decode", {"spec": {"replicas": 3}}, "scale")
    await _looked(api, "scaled")
    pool = await _pool(api, "scaled-decode")
    assert pool["spec"]["replicas"] == 3, "what a scaler has written stays"
    deployment = await api.get("Deployment", "segue", "scaled-decode")
    assert deployment is not None
    assert deployment["spec"]["replicas"] == 3
    with pytest.raises(
        ApiError, match="replicas must lie between minReplicas and maxReplicas, the bounds in the PDCluster"
    ):
        await api.patch("PDPool", "segue", "scaled-decode", {"spec": {"replicas": 65}}, "scale")


async def test_who_scales_by_what_he_has_read_does_not_write_over_somebody_else(server: Server, api: Api) -> None:
    await _made(server, "counted")
    await _looked(api, "counted")
    read = (await _pool(api, "counted-decode"))["metadata"]["resourceVersion"]
    await api.patch("PDPool", "segue", "counted-decode", {"spec": {"replicas": 3}}, "scale")
    change = {"metadata": {"resourceVersion": read}, "spec": {"replicas": 2}}
    with pytest.raises(ApiError) as raised:
        await api.patch("PDPool", "segue", "counted-decode", change, "scale")
    assert raised.value.status == 409
    await api.check_scale("segue", "counted-decode", 9)
    with pytest.raises(ApiError, match="replicas must lie between minReplicas and maxReplicas"):
        await api.check_scale("segue", "counted-decode", 65)
    assert (await _pool(api, "counted-decode"))["spec"]["replicas"] == 3, "it was only asked"
    change["metadata"]["resourceVersion"] = (await _pool(api, "counted-decode"))["metadata"]["resourceVersion"]
    await api.patch("PDPool", "segue", "counted-decode", change, "scale")
    assert (await _pool(api, "counted-decode"))["spec"]["replicas"] == 2


async def test_somebody_elses_service_is_left_alone(server: Server, api: Api) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "taken", "namespace": "segue"},
        "spec": {"selector": {"app": "theirs"}, "ports": [{"port": 80}]},
    }
    await api.create(theirs)
    await _made(server, "taken")
    with pytest.raises(ApiError, match="there is a Service taken that isn't this PDCluster's"):
        await _looked(api, "taken", 1)
    service = await api.get("Service", "segue", "taken")
    assert service is not None
    assert service["spec"]["selector"] == {"app": "theirs"}
    assert "ownerReferences" not in service["metadata"]
    assert await api.get("Service", "segue", "taken-routers") is not None, "all else is made"


async def test_spec_and_status_are_written_apart(server: Server, api: Api) -> None:
    await _made(server, "apart")
    await _looked(api, "apart")
    before = await _pool(api, "apart-decode")
    await api.patch("PDPool", "segue", "apart-decode", {"status": {"ready": 99}})
    assert (await _pool(api, "apart-decode"))["status"] == before["status"], "not by way of the object"
    await api.patch("PDPool", "segue", "apart-decode", {"spec": {"replicas": 7}, "status": {"ready": 5}}, "status")
    after = await _pool(api, "apart-decode")
    assert (after["spec"], after["status"]["ready"]) == (before["spec"], 5), "the spec not by way of the status"
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


async def test_what_a_status_no_longer_says_is_gone_from_it(server: Server, api: Api) -> None:
    await _made(server, "told")
    await _looked(api, "told")
    pool = await _pool(api, "told-decode")
    told = {
        "apiVersion": pool["apiVersion"],
        "kind": pool["kind"],
        "metadata": {"name": "told-decode", "namespace": "segue"},
        "status": {**pool["status"], "recommended": 3, "reason": "mode Joint has said so"},
    }
    await api.apply(told, MANAGER, status=True)
    assert (await _pool(api, "told-decode"))["status"]["recommended"] == 3
    await _looked(api, "told")
    assert (await _pool(api, "told-decode"))["status"].keys().isdisjoint({"recommended", "reason"})


async def test_who_applies_what_is_kept_apart(server: Server, api: Api) -> None:
    await _made(server, "owned")
    await _looked(api, "owned")
    managers = {one["manager"] for one in (await _pool(api, "owned-decode"))["metadata"]["managedFields"]}
    assert {MANAGER, SCALE_MANAGER} <= managers
    # Somebody else's apply of what is ours is a conflict, unless it insists.
    path = "/apis/segue.dev/v1alpha1/namespaces/segue/pdpools/owned-decode?fieldManager=somebody"
    theirs = {
        "apiVersion": "segue.dev/v1alpha1",
        "kind": "PDPool",
        "metadata": {"name": "owned-decode"},
        "spec": {"drainTimeoutSeconds": 1},
    }
    status, said = await server.call("PATCH", path, theirs, "application/apply-patch+yaml")
    assert (status, MANAGER in said["message"] or SCALE_MANAGER in said["message"]) == (409, True)
    await server.call("PATCH", f"{path}&force=true", theirs, "application/apply-patch+yaml")
    await _looked(api, "owned")
    assert (await _pool(api, "owned-decode"))["spec"]["drainTimeoutSeconds"] == 120, "and is put right again"


async def test_looking_again_changes_nothing(server: Server, api: Api) -> None:
    await _made(server, "calm")
    await _looked(api, "calm", 3)
    kinds = ("ConfigMap", "Deployment", "PDPool", "Service", "ServiceAccount")
    labels = {"app.kubernetes.io/instance": "calm"}

    async def versions() -> dict[str, str]:
        return {
            f"{kind} {one['metadata']['name']}": one["metadata"]["resourceVersion"]
            for kind in kinds
            for one in await api.list(kind, "segue", labels)
        }

    before = await versions()
    await _looked(api, "calm", 3)
    assert await versions() == before
