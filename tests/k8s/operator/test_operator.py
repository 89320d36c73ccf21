"""The operator itself, run by kopf against an API server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segue.base.errors import SettingsError
from segue.cli.main import app
from segue.operator.actions import Plan
from segue.operator.desired import desired_state
from segue.operator.main import OperatorSettings, operate
from segue.operator.names import DELETION_COST, LEAVING_SINCE, Manifest
from segue.operator.observed import Observed
from segue.operator.shrink import Load
from tests.k8s.operator.conftest import World
from tests.k8s.operator.objects import cluster


async def test_makes_all_that_a_cluster_needs_and_says_when_it_serves(world: World) -> None:
    async with world.operator():
        await world.put(decode={"replicas": 2})
        await world.settle(world.ready)
    assert world.replicas("PDPool", "chat-prefill") == 1
    assert world.replicas("PDPool", "chat-decode") == 2
    assert world.replicas("Deployment", "chat-decode") == 2
    names = {(one["kind"], one["metadata"]["name"]) for kind in ("Service", "ConfigMap") for one in world.api.all(kind)}
    assert names == {
        ("Service", "chat"),
        ("Service", "chat-routers"),
        ("Service", "chat-scaler"),
        ("ConfigMap", "chat-model"),
    }
    pool = world.api.find("PDPool", "chat-decode")
    workers = world.api.find("Deployment", "chat-decode")
    assert pool is not None
    assert workers is not None
    assert workers["metadata"]["ownerReferences"][0]["uid"] == pool["metadata"]["uid"]
    assert {event["reason"] for event in world.api.all("Event")} >= {"Valid", "Serving"}


async def test_scales_one_pool_alone_by_its_scale_subresource(world: World) -> None:
    async with world.operator():
        await world.put()
        await world.settle(world.ready)
        prefill = world.api.find("Deployment", "chat-prefill")
        await world.scale("chat-decode", 3)
        await world.settle(lambda: world.replicas("Deployment", "chat-decode") == 3)
        await world.settle(lambda: (world.api.find("PDPool", "chat-decode") or {})["status"]["ready"] == 3)
    assert (world.api.find("Deployment", "chat-prefill") or {})["spec"] == (prefill or {})["spec"]


async def test_what_a_scaler_has_written_is_not_overwritten_in_mode_external(world: World) -> None:
    async with world.operator():
        await world.put(decode={"replicas": 2, "maxReplicas": 4})
        await world.settle(world.ready)
        await world.scale("chat-decode", 4)
        await world.settle(lambda: world.replicas("Deployment", "chat-decode") == 4)
        await world.put(decode={"replicas": 1, "maxReplicas": 3})  # Not even if its bounds are narrowed.
        await world.looks(2)
        assert world.replicas("PDPool", "chat-decode") == 4
        assert (world.api.find("PDPool", "chat-decode") or {})["spec"]["maxReplicas"] == 4
        await world.scale("chat-decode", 3)
        await world.settle(lambda: (world.api.find("PDPool", "chat-decode") or {})["spec"]["maxReplicas"] == 3)
    assert world.replicas("PDPool", "chat-decode") == 3


async def test_in_mode_fixed_the_cluster_says_how_many_there_are(world: World) -> None:
    async with world.operator():
        await world.put(decode={"replicas": 2}, scaling={"mode": "Fixed"})
        await world.settle(world.ready)
        await world.scale("chat-decode", 5)
        await world.settle(lambda: world.replicas("PDPool", "chat-decode") == 2)
        await world.settle(lambda: world.replicas("Deployment", "chat-decode") == 2)
        await world.put(decode={"replicas": 3}, scaling={"mode": "Fixed"})
        await world.settle(lambda: world.replicas("Deployment", "chat-decode") == 3)
    assert world.api.find("Service", "chat-scaler") is None


async def _three_decode_workers(world: World) -> tuple[str, str, str]:
    """Of which the middle one has the least to do."""
    await world.put(decode={"replicas": 3})
    await world.settle(world.ready)
    await world.settle(lambda: len(world.nodes.pods("chat-decode")) == 3)
    first, second, third = sorted(pod["metadata"]["name"] for pod in world.nodes.pods("chat-decode"))
    for pod, requests in ((first, 5), (second, 1), (third, 3)):
        world.workers.load[pod] = Load(requests=requests)
    return first, second, third


async def test_a_pool_that_shrinks_lets_the_worker_with_the_least_work_drain_first(world: World) -> None:
    async with world.operator():
        first, second, third = await _three_decode_workers(world)
        await world.scale("chat-decode", 2)
        await world.settle(lambda: world.workers.told)
        await world.looks(3)
        assert set(world.workers.told) == {second}
        annotations = (world.api.find("Pod", second) or {})["metadata"]["annotations"]
        assert annotations[DELETION_COST] == "-1000"
        assert world.replicas("Deployment", "chat-decode") == 3, "nobody goes while the worker has a request"
        assert world.condition("PDPool", "chat-decode", "Resizing")["reason"] == "Draining"
        world.workers.load[second] = Load(requests=0, offers=0, draining=True)
        await world.settle(lambda: world.nodes.deleted)
        await world.settle(lambda: world.condition("PDPool", "chat-decode", "Resizing").get("reason") == "Settled")
    assert world.nodes.deleted == [second]
    assert {pod["metadata"]["name"] for pod in world.nodes.pods("chat-decode")} == {first, third}


async def test_an_operator_that_starts_in_the_middle_of_a_shrink_ends_it(world: World) -> None:
    async with world.operator():
        _, second, _ = await _three_decode_workers(world)
        await world.scale("chat-decode", 2)
        await world.settle(lambda: LEAVING_SINCE in (world.api.find("Pod", second) or {})["metadata"]["annotations"])
    # Whether it was told was lost with the first operator; meanwhile another one has less to do.
    world.workers.told.clear()
    world.workers.load[second] = Load(requests=9)
    async with world.operator():
        await world.settle(lambda: world.workers.told)
        assert set(world.workers.told) == {second}
        assert world.replicas("Deployment", "chat-decode") == 3
        world.workers.load[second] = Load(draining=True)
        await world.settle(lambda: world.nodes.deleted)
        await world.settle(lambda: world.replicas("Deployment", "chat-decode") == 2)
    assert world.nodes.deleted == [second]


async def test_a_bad_spec_is_told_and_what_runs_goes_on(world: World) -> None:
    async with world.operator():
        await world.put()
        await world.settle(world.ready)
        await world.put(prefill={"args": ["--port=1"]}, images={"router": "new", "worker": "new"})
        await world.settle(lambda: world.condition("PDCluster", "chat", "Accepted").get("status") == "False")
        told = world.condition("PDCluster", "chat", "Accepted")
        assert told["reason"] == "InvalidSpec"
        assert world.ready(), "what runs is told of as ever"
        assert "prefill: args has --port, which the operator sets; take it out" in told["message"]
        router = world.api.find("Deployment", "chat-router")
        assert router is not None
        assert router["spec"]["template"]["spec"]["containers"][0]["image"] == "segue-router:0.1.0"
        await world.put()
        await world.settle(lambda: world.condition("PDCluster", "chat", "Accepted").get("status") == "True")
    assert ("Warning", "InvalidSpec") in {(event["type"], event["reason"]) for event in world.api.all("Event")}


async def test_a_pod_patch_that_cannot_be_merged_is_a_bad_spec_and_holds_up_no_other_cluster(world: World) -> None:
    broken = cluster("broken", decode={"pod": {"containers": ["worker"]}})
    broken["metadata"]["uid"] = "uid-of-broken"
    async with world.operator():
        await world.api.write("PDCluster", broken)
        await world.settle(lambda: world.condition("PDCluster", "broken", "Accepted").get("status") == "False")
        told = world.condition("PDCluster", "broken", "Accepted")["message"]
        assert "decode.pod: containers[0] is 'worker'; each of containers is an object with a name" in told
        await world.put()
        await world.settle(world.ready)


async def test_a_fault_of_the_operator_is_told_once_on_the_cluster_that_it_met(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decide(cluster: Manifest, seen: Observed, now_s: float) -> Plan:
        if cluster["metadata"]["name"] == "broken":
            raise KeyError("replicas")
        return desired_state(cluster, seen, now_s)

    monkeypatch.setattr("segue.operator.reconciler.desired_state", decide)
    broken = cluster("broken")
    broken["metadata"]["uid"] = "uid-of-broken"
    async with world.operator():
        await world.api.write("PDCluster", broken)
        await world.put()
        await world.settle(world.ready)
        await world.looks(3)
    told = [event for event in world.api.all("Event") if event["reason"] == "Fault"]
    assert [(one["type"], one["involvedObject"]["name"]) for one in told] == [("Warning", "broken")]
    assert "KeyError('replicas')" in told[0]["message"]


async def test_what_the_api_server_refuses_is_told_and_tried_again_and_holds_up_nothing_else(world: World) -> None:
    world.api.refused["deployments", "chat-router"] = "exceeded quota"
    async with world.operator():
        await world.put()
        await world.settle(lambda: world.api.find("Deployment", "chat-decode"))
        assert world.api.find("Deployment", "chat-router") is None
        told = [event for event in world.api.all("Event") if event["reason"] == "Refused"]
        assert [(one["type"], one["message"]) for one in told] == [
            ("Warning", "the API server refuses what should be done: exceeded quota")
        ]
        world.api.refused.clear()
        await world.settle(world.ready)


async def test_an_object_that_is_somebody_elses_is_left_alone_and_told(world: World) -> None:
    theirs = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "chat", "namespace": "segue"},
        "spec": {"selector": {"app": "theirs"}},
    }
    world.api.place("Service", theirs)
    async with world.operator():
        await world.put()
        await world.settle(lambda: world.api.find("Deployment", "chat-decode"))
        await world.looks(2)
    service = world.api.find("Service", "chat")
    assert service is not None
    assert service["spec"] == theirs["spec"]
    assert "ownerReferences" not in service["metadata"], "it would be deleted with the PDCluster"
    (told,) = [event["message"] for event in world.api.all("Event") if event["reason"] == "Refused"]
    assert told.startswith("there is a Service chat that isn't this PDCluster's, and it is left alone")


async def test_without_the_definitions_it_says_so_and_ends(world: World) -> None:
    del world.api.resources["segue.dev/v1alpha1/pdpools"]
    with pytest.raises(SettingsError, match="no definition of PDPool; apply k8s/components/operator first"):
        await operate(OperatorSettings(health_port=0), login_source=world.login, workers=world.workers)


async def test_segue_scale_reaches_a_cluster_by_the_users_kubeconfig(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", world.kubeconfig(tmp_path))
    async with world.operator():
        await world.put()
        await world.settle(world.ready)
        command = ["scale", "--kubernetes", "segue/chat", "decode=2"]
        scaling = asyncio.create_task(asyncio.to_thread(CliRunner().invoke, app, command))
        await world.settle(scaling.done)
    said = scaling.result()
    assert said.exit_code == 0, said.output
    assert world.replicas("PDPool", "chat-decode") == 2
    refused = await asyncio.to_thread(CliRunner().invoke, app, ["scale", "--kubernetes", "chat", "decode=2"])
    assert refused.exit_code == 2
    assert "'chat' is not NAMESPACE/NAME of a PDCluster" in refused.output
