"""What the manifests name exists where it is named, and every file of k8s/ is part of something that is rendered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import grpc
import pytest
import typer.main
import yaml
from typer.core import TyperGroup

from segue.cli.main import app
from segue.operator.router_processes import MOST_PROCESSES, name_metrics_ports
from segue.operator.spec import parse_spec
from segue.proto.externalscaler_pb2 import ScaledObjectRef
from segue.router.scaling.external_scaler import SIGNALS, ExternalScaler
from segue.router.settings import RouterSettings
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

COMPONENT = "app.kubernetes.io/component"
# What whoever applies the manifests brings along, and docs/kubernetes.md says so.
YOURS = {("Issuer", "segue-mesh"), ("PersistentVolumeClaim", "models")}
PAGE = (K8S.parent / "docs" / "kubernetes.md").read_text()


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> tuple[Manifest, ...]:
    return with_what_the_operator_makes(rendered(request.param))


def test_what_engines_compile_is_kept_where_workers_can_write() -> None:
    """Their root file systems are read-only."""
    image = (K8S.parent / "worker" / "Dockerfile").read_text()
    caches = re.findall(r"\b(?:TRITON_CACHE_DIR|CUDA_CACHE_PATH)=(\S+)", image)
    assert len(caches) == 2
    for role in ("prefill", "decode"):
        deployment = yaml.safe_load((K8S / "base" / f"{role}.yaml").read_text())
        (worker,) = deployment["spec"]["template"]["spec"]["containers"]
        writable = [mount["mountPath"] for mount in worker["volumeMounts"] if not mount.get("readOnly")]
        assert all(any(cache.startswith(f"{path}/") for path in writable) for cache in caches)


def names(manifests: tuple[Manifest, ...], kind: str) -> set[str]:
    return {one["metadata"]["name"] for one in of_kind(manifests, kind)}


def ports(template: Manifest) -> dict[str, int]:
    return {port["name"]: port["containerPort"] for one in template["spec"]["containers"] for port in one["ports"]}


def router_that_serves(manifests: tuple[Manifest, ...], address: str) -> Manifest:
    """The pod template behind a scaler's address, SERVICE:PORT."""
    host, _, port = address.partition(":")
    (service,) = (one for one in of_kind(manifests, "Service") if one["metadata"]["name"] == host)
    (target,) = (one["targetPort"] for one in service["spec"]["ports"] if one["port"] == int(port))
    (template,) = (
        template
        for _, template in pod_templates(manifests)
        if selects(service["spec"]["selector"], template["metadata"]["labels"])
    )
    served = option(template["spec"]["containers"][0]["args"], "scaler-port")
    assert ports(template)[target] == int(served), address
    return template


def triggers(manifests: tuple[Manifest, ...]) -> Iterator[tuple[Manifest, dict[str, str]]]:
    for scaled in of_kind(manifests, "ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            yield scaled, trigger["metadata"]


def test_a_scaler_is_where_its_address_says(manifests: tuple[Manifest, ...]) -> None:
    for _, metadata in triggers(manifests):
        assert router_that_serves(manifests, metadata["scalerAddress"])["metadata"]["labels"][COMPONENT] == "router"


def test_an_operators_scaler_is_served_by_its_router(manifests: tuple[Manifest, ...]) -> None:
    for cluster in of_kind(manifests, "PDCluster"):
        if parse_spec(cluster["spec"]).scaling.mode == "External":
            router_that_serves(manifests, f"{cluster['metadata']['name']}-scaler:9500")


class Refused(Exception):
    pass


class Context:
    """Of a call to the scaler."""

    async def abort(self, code: grpc.StatusCode, message: str) -> None:
        raise Refused(message)


async def test_the_scaler_takes_what_a_trigger_tells_it(manifests: tuple[Manifest, ...]) -> None:
    scaler = object.__new__(ExternalScaler)  # What a metric's target is asks nothing of the fleet.
    context: Any = Context()
    for scaled, metadata in triggers(manifests):
        assert metadata.keys() == {"scalerAddress", "pool", "target"}
        told = {name: value for name, value in metadata.items() if name != "scalerAddress"}
        (spec,) = (await scaler.GetMetricSpec(ScaledObjectRef(scalerMetadata=told), context)).metricSpecs
        assert spec.metricName == SIGNALS[metadata["pool"]].metric
        assert spec.targetSizeFloat == float(metadata["target"])
        (deployment,) = (
            one
            for one in of_kind(manifests, "Deployment")
            if one["metadata"]["name"] == scaled["spec"]["scaleTargetRef"]["name"]
        )
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        assert labels[COMPONENT] == f"{metadata['pool']}-worker", "scaled by its own pool's signal"


def test_what_is_scaled_exists(manifests: tuple[Manifest, ...]) -> None:
    known = {(one["apiVersion"], one["kind"], one["metadata"]["name"]) for one in manifests}
    for scaler in of_kind(manifests, "ScaledObject", "HorizontalPodAutoscaler"):
        target = {"apiVersion": "apps/v1", "kind": "Deployment", **scaler["spec"]["scaleTargetRef"]}
        assert (target["apiVersion"], target["kind"], target["name"]) in known


def test_a_pod_monitor_finds_every_pod_that_has_metrics_and_a_policy_lets_it(manifests: tuple[Manifest, ...]) -> None:
    pods = [template for _, template in pod_templates(manifests)]
    assert not of_kind(manifests, "PodMonitor") or sum(map(bool, map(metrics_ports, pods))) == 3
    for pod in pods:
        assert_scraped(manifests, pod)


def test_every_process_of_a_router_is_scraped() -> None:
    manifests = rendered("gpu")
    (pod,) = (deepcopy(pod) for name, pod in pod_templates(manifests) if name == "segue-router")
    pod["spec"]["containers"][0]["args"].append(f"--processes={MOST_PROCESSES}")
    name_metrics_ports(pod["spec"])
    settings = [
        RouterSettings(model="m", metrics_port=9400, processes=MOST_PROCESSES, process=process).for_process()
        for process in range(MOST_PROCESSES)
    ]
    assert list(metrics_ports(pod).values()) == [one.metrics_port for one in settings]
    assert_scraped(manifests, pod)


def test_the_pages_ports_of_further_processes_are_what_the_monitor_scrapes() -> None:
    (patch,) = (yaml.safe_load(block) for block in re.findall(r"(?s)```yaml\n(.*?)```", PAGE) if "metrics-1" in block)
    added = [one["value"] for one in patch]
    processes = next(int(one.partition("=")[2]) for one in added if isinstance(one, str))
    pod: Manifest = {"containers": [{"name": "router", "args": [f"--processes={processes}"], "ports": []}]}
    name_metrics_ports(pod)
    assert [one for one in added if not isinstance(one, str)] == pod["containers"][0]["ports"]


def metrics_ports(pod: Manifest) -> dict[str, int]:
    return {name: port for name, port in ports(pod).items() if name.startswith("metrics")}


def assert_scraped(manifests: tuple[Manifest, ...], pod: Manifest) -> None:
    """By every monitor that there is, on all its ports of metrics and on no others."""
    labels = pod["metadata"]["labels"]
    for monitor in of_kind(manifests, "PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        (keep,) = (one for one in endpoint["relabelings"] if one.get("action") == "keep")
        assert keep["sourceLabels"] == ["__meta_kubernetes_pod_container_port_name"]
        kept = {name: port for name, port in ports(pod).items() if re.fullmatch(keep["regex"], name)}
        assert kept == metrics_ports(pod)
        assert not kept or selects(monitor["spec"]["selector"], labels)
        policies = [one["spec"] for one in of_kind(manifests, "NetworkPolicy")]
        rules = [rule for one in policies if selects(one["podSelector"], labels) for rule in one["ingress"]]
        opened = [port for rule in rules if "from" in rule for port in rule.get("ports", [])]
        for name, port in kept.items():
            assert any(
                one["port"] == name or (isinstance(one["port"], int) and one["port"] <= port <= one.get("endPort", 0))
                for one in opened
            ), name


def test_the_operator_has_its_rights_under_its_own_name(manifests: tuple[Manifest, ...]) -> None:
    roles = names(manifests, "ClusterRole")
    accounts = {(one["metadata"]["name"], one["metadata"]["namespace"]) for one in of_kind(manifests, "ServiceAccount")}
    bindings = of_kind(manifests, "ClusterRoleBinding")
    for binding in bindings:
        assert binding["roleRef"]["name"] in roles
        (subject,) = binding["subjects"]
        assert subject["kind"] == "ServiceAccount"
        assert (subject["name"], subject["namespace"]) in accounts
        (operator,) = (one for one in of_kind(manifests, "Deployment") if one["metadata"]["name"] == "segue-operator")
        assert operator["spec"]["template"]["spec"]["serviceAccountName"] == subject["name"]
        assert operator["metadata"]["namespace"] == subject["namespace"]
    assert bool(bindings) == ("segue-operator" in names(manifests, "Deployment"))


def test_secrets_claims_and_settings_exist_or_are_yours_and_documented(manifests: tuple[Manifest, ...]) -> None:
    known = {("ConfigMap", name) for name in names(manifests, "ConfigMap")} | YOURS
    known |= {("Secret", one["spec"]["secretName"]) for one in of_kind(manifests, "Certificate")}
    wanted = {("Issuer", one["spec"]["issuerRef"]["name"]) for one in of_kind(manifests, "Certificate")}
    for _, template in pod_templates(manifests):
        for volume in template["spec"]["volumes"]:
            wanted |= {("Secret", volume["secret"]["secretName"])} if "secret" in volume else set()
            wanted |= {("ConfigMap", volume["configMap"]["name"])} if "configMap" in volume else set()
            if "persistentVolumeClaim" in volume:
                wanted.add(("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]))
        for container in template["spec"]["containers"]:
            wanted |= {("ConfigMap", source["configMapRef"]["name"]) for source in container.get("envFrom", [])}
    assert wanted <= known
    for _, name in YOURS:
        assert f"`{name}`" in PAGE


def test_files_that_options_name_lie_on_volumes(manifests: tuple[Manifest, ...]) -> None:
    for name, template in pod_templates(manifests):
        (container,) = template["spec"]["containers"]
        volumes = {volume["name"] for volume in template["spec"]["volumes"]}
        mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
        assert set(mounts.values()) <= volumes, name
        for arg in container["args"]:
            path = arg.partition("=")[2]
            if arg.startswith("--tls-"):
                assert str(Path(path).parent) in mounts, f"{name}: {arg}"


def test_every_file_is_part_of_an_overlay_that_is_rendered() -> None:
    reached = {path for overlay in OVERLAYS for path in _reached(K8S / "overlays" / overlay)}
    every = {path for path in K8S.rglob("*.yaml") if "operator/segue" not in path.as_posix()}
    assert every - reached == set(), "add it to a kustomization, or an overlay that has it"


def test_what_the_page_names_exists() -> None:
    for folder in set(re.findall(r"\bk8s/(?:overlays|components)/[a-z-]+", PAGE)):
        assert (K8S.parent / folder / "kustomization.yaml").exists(), folder
    commands = typer.main.get_command(app)
    assert isinstance(commands, TyperGroup)
    for command, rest in re.findall(r"(?:^ *|[`&] ?)segue ([a-z]+)((?: [^`\n]*)?)", PAGE, flags=re.M):
        known = {flag for parameter in commands.commands[command].params for flag in parameter.opts}
        assert set(re.findall(r"(?<= )--[a-z-]+", rest)) <= known, command


def _reached(folder: Path) -> Iterator[Path]:
    """All files that building a folder reads."""
    kustomization = folder / "kustomization.yaml"
    yield kustomization
    content = yaml.safe_load(kustomization.read_text())
    patches = [patch["path"] for patch in content.get("patches", []) if "path" in patch]
    for name in [*content.get("resources", []), *content.get("components", []), *patches]:
        path = (folder / name).resolve()
        if path.is_dir():
            yield from _reached(path)
        else:
            yield path
