"""What is to be done about a PDCluster, decision by decision."""

from __future__ import annotations

from typing import Any

import pytest

from segue.cluster.pools import PoolName
from segue.operator.actions import Annotate, Apply, Delete, Drain, Plan, Tell
from segue.operator.desired import desired_state
from segue.operator.names import MANAGER, SCALE_MANAGER, Manifest
from segue.operator.observed import JointDecision, Observed, Recommendation, timestamp
from segue.operator.shrink import Load, Worker
from segue.operator.spec import BadSpec, parse_spec
from tests.k8s.operator.objects import cluster

NOW_S = 1_790_000_000.0


def applied(plan: Plan, kind: str, name: str) -> list[Apply]:
    return [
        action
        for action in plan.actions
        if isinstance(action, Apply)
        and not action.status
        and (action.manifest["kind"], action.manifest["metadata"]["name"]) == (kind, name)
    ]


def statuses(plan: Plan, name: str) -> list[Manifest]:
    return [
        action.manifest["status"]
        for action in plan.actions
        if isinstance(action, Apply) and action.status and action.manifest["metadata"]["name"] == name
    ]


def objects_after(plan: Plan, before: Observed | None = None) -> dict[tuple[str, str], Manifest]:
    """What the API server would have, were the plan carried out."""
    objects = dict(before.objects) if before is not None else {}
    for action in plan.actions:
        if isinstance(action, Apply) and not action.status:
            key = action.manifest["kind"], action.manifest["metadata"]["name"]
            known = objects.get(key, {"metadata": {"uid": f"uid-{key}", "generation": 1}, "spec": {}})
            metadata = {**known["metadata"], **action.manifest["metadata"]}
            spec = {**known.get("spec", {}), **action.manifest.get("spec", {})}
            objects[key] = {**known, **action.manifest, "metadata": metadata, "spec": spec}
            if action.manifest["kind"] in {"ConfigMap", "ServiceAccount"}:
                del objects[key]["spec"]
            if action.manifest["kind"] == "Deployment":
                objects[key]["status"] = {"observedGeneration": 1}
    return objects


def settled(spec: Manifest, **workers: tuple[Worker, ...]) -> Observed:
    """All objects as they should be."""
    seen = Observed()
    for _ in range(2):
        seen = Observed(objects_after(desired_state(spec, seen, NOW_S), seen))
    return Observed(seen.objects, workers)  # type: ignore[arg-type]


def ready(pod: str, requests: int = 0) -> Worker:
    return Worker(pod, ip="10.0.0.1", ready=True, started_s=1.0, load=Load(requests=requests))


def test_pools_come_first_and_their_deployments_once_they_are_there() -> None:
    chat = cluster()
    first = desired_state(chat, Observed(), NOW_S)
    assert not applied(first, "Deployment", "chat-decode")
    assert [one.manager for one in applied(first, "PDPool", "chat-decode")] == [SCALE_MANAGER, MANAGER]
    second = desired_state(chat, Observed(objects_after(first)), NOW_S)
    (workers,) = applied(second, "Deployment", "chat-decode")
    assert workers.manifest["spec"]["replicas"] == 1


def test_nothing_is_done_when_all_is_as_it_should_be() -> None:
    chat = cluster()
    plan = desired_state(chat, settled(chat, prefill=(ready("p"),), decode=(ready("d"),)), NOW_S)
    assert [action for action in plan.actions if not isinstance(action, Tell) and not _status(action)] == []
    assert plan.again_s > 1


def test_only_the_first_apply_names_the_replicas_of_a_pool_in_mode_external() -> None:
    chat = cluster()
    seen = settled(chat)
    chat["spec"]["decode"]["replicas"] = 3
    chat["spec"]["decode"]["drainTimeoutSeconds"] = 7
    (change,) = applied(desired_state(chat, seen, NOW_S), "PDPool", "chat-decode")
    assert change.manager == MANAGER
    assert "replicas" not in change.manifest["spec"]


def test_mode_fixed_sets_the_replicas_and_says_why() -> None:
    chat = cluster(scaling={"mode": "Fixed"})
    seen = settled(chat)
    seen.objects["PDPool", "chat-decode"]["spec"]["replicas"] = 4
    plan = desired_state(chat, seen, NOW_S)
    (change,) = applied(plan, "PDPool", "chat-decode")
    assert (change.manager, change.manifest["spec"]["replicas"]) == (SCALE_MANAGER, 1)
    assert any(isinstance(action, Tell) and "from 4 to 1 workers" in action.message for action in plan.actions)


def test_mode_joint_takes_the_policys_numbers_within_the_bounds() -> None:
    chat = cluster(scaling={"mode": "Joint"}, budget={"gpus": 8}, decode={"maxReplicas": 3})
    seen = settled(chat)
    wanted: dict[PoolName, Recommendation] = {
        "prefill": Recommendation(2, "2+6 serves most"),
        "decode": Recommendation(6, "2+6 serves most"),
    }
    seen = Observed(seen.objects, {}, JointDecision({"prefill": 2, "decode": 6}, wanted, "2+6 serves most"))
    plan = desired_state(chat, seen, NOW_S)
    numbers = {
        name: applied(plan, "PDPool", name)[0].manifest["spec"]["replicas"] for name in ("chat-prefill", "chat-decode")
    }
    assert numbers == {"chat-prefill": 2, "chat-decode": 3}
    assert any(isinstance(action, Tell) and "2+6 serves most" in action.message for action in plan.actions)


def test_what_mode_joint_decided_of_a_pool_is_in_its_status_and_goes_with_the_mode() -> None:
    chat = cluster(scaling={"mode": "Joint"}, budget={"gpus": 8})
    seen = settled(chat)
    decided = JointDecision({}, {"decode": Recommendation(1, "1+1 serves most; decode waits for GPUs")}, "1+1")
    (status,) = statuses(desired_state(chat, Observed(seen.objects, {}, decided), NOW_S), "chat-decode")
    assert (status["recommended"], status["reason"]) == (1, "1+1 serves most; decode waits for GPUs")
    seen.objects["PDPool", "chat-decode"]["status"] = status
    chat["spec"]["scaling"]["mode"] = "External"
    (status,) = statuses(desired_state(chat, seen, NOW_S), "chat-decode")
    assert status.keys().isdisjoint({"recommended", "reason"})
    seen.objects["PDPool", "chat-decode"]["status"] = status
    assert statuses(desired_state(chat, seen, NOW_S), "chat-decode") == [], "and that is written once"


def test_mode_joint_changes_nothing_while_nothing_is_known() -> None:
    chat = cluster(scaling={"mode": "Joint"}, budget={"gpus": 8})
    seen = settled(chat)
    seen.objects["PDPool", "chat-decode"]["spec"]["replicas"] = 5
    assert not applied(desired_state(chat, seen, NOW_S), "PDPool", "chat-decode")


def test_a_shrink_marks_first_then_tells_then_follows() -> None:
    chat = cluster(decode={"replicas": 2})
    seen = settled(chat, decode=(ready("a", 3), ready("b", 1)))
    seen.objects["PDPool", "chat-decode"]["spec"]["replicas"] = 1
    plan = desired_state(chat, seen, NOW_S)
    (mark,) = [action for action in plan.actions if isinstance(action, Annotate)]
    assert mark.pod == "b"
    assert mark.annotations["controller.kubernetes.io/pod-deletion-cost"] == "-1000"
    assert not [action for action in plan.actions if isinstance(action, Drain)]
    assert not applied(plan, "Deployment", "chat-decode")

    leaver = Worker("b", "10.0.0.2", True, 1.0, leaving_since_s=NOW_S, load=Load(requests=1))
    plan = desired_state(chat, Observed(seen.objects, {"decode": (ready("a", 3), leaver)}), NOW_S)
    assert Drain("b", "10.0.0.2") in plan.actions
    assert not applied(plan, "Deployment", "chat-decode")

    empty = Worker("b", "10.0.0.2", False, 1.0, leaving_since_s=NOW_S, load=Load(draining=True))
    plan = desired_state(chat, Observed(seen.objects, {"decode": (ready("a", 3), empty)}), NOW_S)
    (change,) = applied(plan, "Deployment", "chat-decode")
    assert change.manifest["spec"]["replicas"] == 1


def test_the_scalers_service_goes_with_the_mode() -> None:
    external = cluster()
    seen = settled(external)
    plan = desired_state(cluster(scaling={"mode": "Fixed"}), seen, NOW_S)
    assert [action.manifest["metadata"]["name"] for action in plan.actions if isinstance(action, Delete)] == [
        "chat-scaler"
    ]


def test_a_pool_says_what_scalers_go_by() -> None:
    chat = cluster(prefill={"replicas": 2})
    waiting = Worker("p1", "10.0.0.1", True, 1.0, load=Load(requests=2, waiting_tokens=900))
    leaver = Worker("p2", "10.0.0.2", False, 1.0, leaving_since_s=NOW_S, load=Load(requests=1, draining=True))
    plan = desired_state(chat, settled(chat, prefill=(waiting, leaver)), NOW_S)
    (told,) = statuses(plan, "chat-prefill")
    assert {key: told[key] for key in ("replicas", "ready", "draining", "backlogTokens")} == {
        "replicas": 1,
        "ready": 1,
        "draining": 1,
        "backlogTokens": 900,
    }
    assert "app.kubernetes.io/component=prefill-worker" in told["selector"]
    assert "app.kubernetes.io/instance=chat" in told["selector"]


def test_a_conditions_time_stays_until_its_status_changes() -> None:
    chat = cluster()
    first = desired_state(chat, settled(chat), NOW_S)
    (told,) = statuses(first, "chat")
    chat["status"] = told
    again = desired_state(chat, settled(chat), NOW_S + 60)
    assert not statuses(again, "chat")
    later = desired_state(chat, settled(chat, prefill=(ready("p"),), decode=(ready("d"),)), NOW_S + 60)
    (told,) = statuses(later, "chat")
    assert {one["lastTransitionTime"] for one in told["conditions"]} == {timestamp(NOW_S)}, "no router is ready yet"


def test_a_cluster_that_goes_is_left_alone() -> None:
    chat = cluster()
    chat["metadata"]["deletionTimestamp"] = "2026-11-21T00:00:00Z"
    assert desired_state(chat, Observed(), NOW_S).actions == ()


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ({"scaling": {"mode": "Joint"}}, "give budget.gpus"),
        ({"budget": {"gpus": 3}, "decode": {"gpus": 4}}, "the least of both pools takes 5"),
        ({"decode": {"replicas": 9, "maxReplicas": 2}}, "replicas 9 must lie between"),
        ({"router": {"args": ["--model=x"]}}, "args has --model"),
        ({"speed": 3}, "speed"),
        (
            {"decode": {"pod": {"containers": ["worker"]}}},
            "decode.pod: containers[0] is 'worker'; each of containers is an object with a name",
        ),
        ({"router": {"pod": {"volumes": ["x"]}}}, "router.pod: volumes[0] is 'x'"),
        ({"prefill": {"pod": {"volumes": [{"emptyDir": {}}]}}}, "an object with a name"),
        (
            {"decode": {"pod": {"containers": [{"name": "worker", "ports": [9300]}]}}},
            "decode.pod: containers[0].ports[0] is 9300; each of ports is an object with a containerPort",
        ),
    ],
)
def test_a_bad_spec_is_refused_with_the_field_and_the_reason(spec: dict[str, Any], told: str) -> None:
    with pytest.raises(BadSpec) as refused:
        parse_spec({**cluster()["spec"], **spec})
    assert told in str(refused.value)


def _status(action: object) -> bool:
    return isinstance(action, Apply) and action.status
