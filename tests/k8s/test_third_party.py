"""Objects of others' kinds (KEDA's, the Prometheus operator's, cert-manager's) are what their owners take."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.manifests import OVERLAYS, Manifest, of_kind, rendered
from tests.k8s.operator.schemas import objections

FILES = sorted((Path(__file__).parent / "third_party").glob("*.yaml"))
# By kind: its apiVersion and its schema, both upstream's, cut to the fields that we use.
DEFINITIONS: dict[str, Manifest] = {one["kind"]: one for one in (yaml.safe_load(path.read_text()) for path in FILES)}


def complaints(manifest: Manifest) -> list[str]:
    definition = DEFINITIONS[manifest["kind"]]
    if manifest["apiVersion"] != definition["apiVersion"]:
        return [f"apiVersion {manifest['apiVersion']} is not {definition['apiVersion']}"]
    return objections(manifest, definition["schema"])


def one_of_ours(kind: str) -> Manifest:
    return next(deepcopy(one) for overlay in OVERLAYS for one in of_kind(rendered(overlay), kind))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_what_others_controllers_read_is_what_their_definitions_let_in(overlay: str) -> None:
    for manifest in of_kind(rendered(overlay), *DEFINITIONS):
        assert complaints(manifest) == [], manifest["metadata"]["name"]


def test_every_definition_is_used() -> None:
    used = {manifest["kind"] for overlay in OVERLAYS for manifest in rendered(overlay)}
    assert DEFINITIONS.keys() <= used


@pytest.mark.parametrize(
    ("kind", "path", "value", "said"),
    [
        ("ScaledObject", ("minReplicas",), 1, "'minReplicas' was unexpected"),
        ("ScaledObject", ("minReplicaCount",), 99, "minReplicaCount is above maxReplicaCount"),
        ("ScaledObject", ("triggers", 0, "metadata", "target"), 1.5, "1.5 is not of type 'string'"),
        ("ScaledObject", ("triggers", 0, "metricTyp"), "Value", "'metricTyp' was unexpected"),
        ("Certificate", ("issuer",), "segue-mesh", "'issuer' was unexpected"),
        ("Certificate", ("duration",), "3d", "'3d' does not match"),
        ("Certificate", ("usages", 0), "server", "'server' is not one of"),
        ("PodMonitor", ("endpoints",), [], "'endpoints' was unexpected"),
        ("PodMonitor", ("podMetricsEndpoints", 0, "interval"), 10, "10 is not of type 'string'"),
        ("PodMonitor", ("podMetricsEndpoints", 0, "relabelings", 0, "action"), "keeep", "'keeep' is not one of"),
        ("PrometheusRule", ("groups", 0, "rules", 0, "severity"), "page", "'severity' was unexpected"),
        ("PrometheusRule", ("groups", 0, "rules", 0, "for"), "5 minutes", "'5 minutes' does not match"),
    ],
)
def test_a_slip_of_the_pen_would_be_seen(kind: str, path: tuple[str | int, ...], value: Any, said: str) -> None:
    manifest = one_of_ours(kind)
    at = manifest["spec"]
    for step in path[:-1]:
        at = at[step]
    at[path[-1]] = value
    assert any(said in complaint for complaint in complaints(manifest)), complaints(manifest)
