"""Every overlay renders, is valid for the versions in support, and hangs together."""

from __future__ import annotations

import kubernetes_validate
import pytest
import typer.main
from typer.core import TyperGroup

from segue.cli.main import app
from tests.k8s.manifests import (
    K8S,
    OVERLAYS,
    Manifest,
    of_kind,
    option,
    pod_templates,
    rendered,
    selects,
    with_what_the_operator_makes,
)
from tests.k8s.test_third_party import DEFINITIONS

# Oldest and newest Kubernetes that is supported.
VERSIONS = ("1.33", "1.37")
# What Kubernetes itself has no schema for: test_third_party.py checks these.
CUSTOM = DEFINITIONS.keys()
# Ours: tests/k8s/operator/test_definitions.py checks these.
OURS = {"CustomResourceDefinition", "PDCluster", "PDPool"}
TEARDOWN_S = {"router": 5, "worker": 10, "operator": 5}
# Whose number of pods these files say; that of the others belongs to whoever scales them.
COUNTED = {"segue-router", "segue-operator"}


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    return with_what_the_operator_makes(rendered(request.param))


@pytest.mark.parametrize("version", VERSIONS)
def test_every_object_is_valid(manifests: tuple[Manifest, ...], version: str) -> None:
    for manifest in manifests:
        if manifest["kind"] not in CUSTOM | OURS:
            kubernetes_validate.validate(manifest, version, strict=True)


def test_applying_again_does_not_fight_whoever_scales_the_pools(manifests: tuple[Manifest, ...]) -> None:
    for deployment in of_kind(manifests, "Deployment"):
        if "ownerReferences" not in deployment["metadata"]:  # The operator's own it may count.
            assert ("replicas" in deployment["spec"]) == (deployment["metadata"]["name"] in COUNTED)


def test_the_grace_period_covers_all_that_a_pod_does_when_it_leaves(manifests: tuple[Manifest, ...]) -> None:
    for name, template in pod_templates(manifests):
        (container,) = template["spec"]["containers"]
        pre_stop_s = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        drain_s = 0 if container["name"] == "operator" else float(option(container["args"], "drain-timeout"))
        needed_s = pre_stop_s + drain_s + TEARDOWN_S[container["name"]]
        assert needed_s < template["spec"]["terminationGracePeriodSeconds"], name


def test_every_option_is_one_that_the_command_has(manifests: tuple[Manifest, ...]) -> None:
    commands = typer.main.get_command(app)
    assert isinstance(commands, TyperGroup)
    for name, template in pod_templates(manifests):
        command, *args = template["spec"]["containers"][0]["args"]
        known = {flag for parameter in commands.commands[command].params for flag in parameter.opts}
        assert not {arg.partition("=")[0] for arg in args} - known, name


def test_pods_run_with_the_least_rights(manifests: tuple[Manifest, ...]) -> None:
    for name, template in pod_templates(manifests):
        spec = template["spec"]
        assert spec["securityContext"]["runAsNonRoot"], name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert spec["automountServiceAccountToken"] is (name == "segue-operator"), name
        for container in spec["containers"]:
            own = container["securityContext"]
            assert own["readOnlyRootFilesystem"], name
            assert own["allowPrivilegeEscalation"] is False, name
            assert own["capabilities"]["drop"] == ["ALL"], name
            # To pin memory for an RDMA adapter, for who has one.
            may_add = ["IPC_LOCK"] if "rdma/hca" in container["resources"]["limits"] else []
            assert own["capabilities"].get("add", []) == may_add, name


def test_pods_say_when_they_have_started_are_ready_and_live(manifests: tuple[Manifest, ...]) -> None:
    for name, template in pod_templates(manifests):
        (container,) = template["spec"]["containers"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys(), name
        if container["name"] == "worker":
            lives = container["livenessProbe"]["httpGet"]["path"]
            assert lives == "/healthz", "a worker that drains is not ready and must not be killed for it"


def test_services_disruption_budgets_and_policies_select_pods_that_there_are(
    manifests: tuple[Manifest, ...],
) -> None:
    labels = [template["metadata"]["labels"] for _, template in pod_templates(manifests)]
    selectors = [service["spec"]["selector"] for service in of_kind(manifests, "Service")]
    selectors += [budget["spec"]["selector"] for budget in of_kind(manifests, "PodDisruptionBudget")]
    selectors += [deployment["spec"]["selector"] for deployment in of_kind(manifests, "Deployment")]
    for policy in of_kind(manifests, "NetworkPolicy"):
        selectors.append(policy["spec"]["podSelector"])
        for rule in [*policy["spec"].get("ingress", []), *policy["spec"].get("egress", [])]:
            peers = [*rule.get("from", []), *rule.get("to", [])]
            selectors += [peer["podSelector"] for peer in peers if "podSelector" in peer]
    assert len(selectors) > 10
    for selector in selectors:
        assert any(selects(selector, pod) for pod in labels), selector


def test_every_port_that_is_named_exists_where_it_is_named(manifests: tuple[Manifest, ...]) -> None:
    pods = [template for _, template in pod_templates(manifests)]
    wanted = [
        (service["spec"]["selector"], port["targetPort"])
        for service in of_kind(manifests, "Service")
        for port in service["spec"]["ports"]
    ]
    for policy in of_kind(manifests, "NetworkPolicy"):
        rules = [(policy["spec"]["podSelector"], rule) for rule in policy["spec"].get("ingress", [])]
        rules += [
            (peer["podSelector"], rule)
            for rule in policy["spec"].get("egress", [])
            for peer in rule["to"]
            if "podSelector" in peer
        ]
        wanted += [(selector, port["port"]) for selector, rule in rules for port in rule.get("ports", [])]
    for selector, port in wanted:
        chosen = [pod for pod in pods if selects(selector, pod["metadata"]["labels"])]
        for pod in chosen:
            known = [one for container in pod["spec"]["containers"] for one in container["ports"]]
            names = {one["name"] for one in known} | {one["containerPort"] for one in known}
            assert port in names, f"{port} of {selector}"


def test_accounts_and_settings_that_are_named_exist(manifests: tuple[Manifest, ...]) -> None:
    accounts = {account["metadata"]["name"] for account in of_kind(manifests, "ServiceAccount")}
    settings = {config["metadata"]["name"] for config in of_kind(manifests, "ConfigMap")}
    for _, template in pod_templates(manifests):
        assert template["spec"]["serviceAccountName"] in accounts
        for container in template["spec"]["containers"]:
            assert {source["configMapRef"]["name"] for source in container.get("envFrom", [])} <= settings


def test_autoscalers_go_by_metrics_that_workers_export(manifests: tuple[Manifest, ...]) -> None:
    exported = (K8S.parent / "docs" / "observability.md").read_text()  # A test of its own holds it to what is exported.
    for scaler in of_kind(manifests, "HorizontalPodAutoscaler"):
        for metric in scaler["spec"]["metrics"]:
            assert f"`{metric['pods']['metric']['name']}`" in exported


def test_one_scaler_a_pool_and_one_pool_a_scaler(manifests: tuple[Manifest, ...]) -> None:
    scaled = [
        scaler["spec"]["scaleTargetRef"]["name"]
        for scaler in of_kind(manifests, "ScaledObject", "HorizontalPodAutoscaler")
    ]
    assert len(scaled) == len(set(scaled))
    pools = {deployment["metadata"]["name"] for deployment in of_kind(manifests, "Deployment")} - {"segue-router"}
    assert set(scaled) <= pools
