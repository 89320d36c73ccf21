"""The definitions of PDCluster and PDPool: what Kubernetes asks of a definition, and what they let in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from segue.operator.actions import Apply
from segue.operator.names import API_VERSION, GROUP, VERSION, Manifest
from segue.operator.observed import Observed, Recommendation
from segue.operator.render import render_pool
from segue.operator.shrink import PoolSize, Resize
from segue.operator.spec import ClusterSpec, parse_spec
from segue.operator.status import cluster_status, pool_status
from tests.k8s.manifests import K8S, OVERLAYS, rendered
from tests.k8s.operator.objects import cluster
from tests.k8s.operator.schemas import definitions, faults, objections, refusals, schema_of

KINDS = ("PDCluster", "PDPool")
# Of OpenAPI v3 what a structural schema may have, and Kubernetes' own.
WORDS = {
    "type", "properties", "items", "required", "enum", "default", "description", "format", "pattern",
    "minimum", "maximum", "minLength", "maxLength", "maxItems",
    "x-kubernetes-validations", "x-kubernetes-list-type", "x-kubernetes-list-map-keys",
    "x-kubernetes-preserve-unknown-fields",
}  # fmt: skip


def nodes(schema: Manifest, path: str = "") -> Iterator[tuple[str, Manifest]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_names_itself_as_kubernetes_wants_it(kind: str) -> None:
    definition = definitions()[kind]
    spec, names = definition["spec"], definition["spec"]["names"]
    assert definition["apiVersion"] == "apiextensions.k8s.io/v1"
    assert definition["metadata"]["name"] == f"{names['plural']}.{spec['group']}"
    assert (spec["group"], spec["scope"], names["listKind"]) == (GROUP, "Namespaced", f"{kind}List")
    assert names["singular"] == kind.lower()
    (version,) = spec["versions"]
    assert (version["name"], version["served"], version["storage"]) == (VERSION, True, True)
    assert version["subresources"]["status"] == {}


@pytest.mark.parametrize("kind", KINDS)
def test_a_schema_is_structural(kind: str) -> None:
    for path, node in nodes(schema_of(kind)):
        assert "type" in node, path
        assert not node.keys() - WORDS, path
        assert ("properties" in node) <= (node["type"] == "object"), path
        assert (node["type"] == "array") == ("items" in node), path
        assert set(node.get("required", [])) <= node.get("properties", {}).keys(), path
        if node["type"] == "object" and "properties" not in node:
            assert path == ".metadata" or node.get("x-kubernetes-preserve-unknown-fields"), f"{path} would be emptied"
        if "x-kubernetes-list-map-keys" in node:
            assert set(node["x-kubernetes-list-map-keys"]) <= set(node["items"]["required"]), path


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_rule_looks_at_exists_and_is_bounded(kind: str) -> None:
    """The API server counts what a rule may cost by these bounds, and refuses a definition whose rules might cost too
    much."""
    for path, node in nodes(schema_of(kind)):
        for rule in node.get("x-kubernetes-validations", []):
            assert rule["message"], path
            assert rule["message"] == rule["message"].strip()
            assert "messageExpression" not in rule, "numbers made text cost more than the API server lets a rule cost"
        if node["type"] == "array" and path.startswith(".spec"):
            assert "maxItems" in node, path
        if node["type"] == "string" and path.startswith(".spec") and "enum" not in node:
            assert "maxLength" in node, path


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_keep_to_their_own_schema(kind: str) -> None:
    spec = {"cluster": "chat", "role": "decode"} if kind == "PDPool" else cluster()["spec"]
    manifest = {"apiVersion": API_VERSION, "kind": kind, "metadata": {"name": "chat"}, "spec": spec}
    assert faults(manifest) == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_default_keeps_to_the_rules_by_itself(kind: str) -> None:
    """So the API server holds it to them: without what the defaults within it would add."""
    for path, node in nodes(schema_of(kind)):
        if "default" in node:
            assert objections(node["default"], node) == [], path


def test_pools_have_what_scalers_need() -> None:
    (version,) = definitions()["PDPool"]["spec"]["versions"]
    scale = version["subresources"]["scale"]
    schema = schema_of("PDPool")["properties"]
    assert scale == {
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    }
    assert schema["spec"]["properties"]["replicas"]["type"] == "integer"
    assert schema["status"]["properties"]["replicas"]["type"] == "integer"
    assert schema["status"]["properties"]["selector"]["type"] == "string"


def test_columns_show_fields_that_there_are() -> None:
    for kind, definition in definitions().items():
        (version,) = definition["spec"]["versions"]
        known = {path for path, _ in nodes(schema_of(kind))} | {".metadata.creationTimestamp"}
        for column in version["additionalPrinterColumns"]:
            assert column["jsonPath"].partition("[?")[0] in known, column["name"]


def test_the_operator_knows_every_field_of_a_spec_and_no_other() -> None:
    def fields(schema: Manifest) -> set[str]:
        return {path for path, _ in nodes(schema)} - {""}

    def modelled(model: Any, path: str = "") -> Iterator[str]:
        schema = model.model_json_schema(by_alias=True)
        yield from walk(schema, schema, path)

    def walk(schema: Manifest, root: Manifest, path: str) -> Iterator[str]:
        if "$ref" in schema:
            schema = root["$defs"][schema["$ref"].rpartition("/")[2]]
        for option in schema.get("anyOf", []):
            yield from walk(option, root, path)
        for name, inner in schema.get("properties", {}).items():
            yield f"{path}.{name}"
            yield from walk(inner, root, f"{path}.{name}")
        if "items" in schema:
            yield f"{path}[]"
            yield from walk(schema["items"], root, f"{path}[]")

    assert set(modelled(ClusterSpec)) == fields(schema_of("PDCluster")["properties"]["spec"])


def test_examples_are_valid_by_schema_and_by_the_operator() -> None:
    found = 0
    for overlay in OVERLAYS:
        for manifest in rendered(overlay):
            if manifest["kind"] in KINDS:
                found += 1
                assert faults(manifest) == [], overlay
                parse_spec(cluster(**manifest["spec"])["spec"])
    assert found, "no overlay has an example"


def test_the_documentations_examples_are_valid() -> None:
    page = (K8S.parent / "docs" / "kubernetes.md").read_text()
    blocks = page.split("\n\n    apiVersion: segue.dev/")[1:]
    assert blocks, "docs/kubernetes.md has no example"
    for block in blocks:
        lines = ("    apiVersion: segue.dev/" + block).split("\n\n")[0]
        manifest = yaml.safe_load(lines)
        assert faults(manifest) == []
        parse_spec(cluster(**manifest["spec"])["spec"])


def test_what_the_operator_writes_is_valid() -> None:
    chat = cluster(scaling={"mode": "Joint"}, budget={"gpus": 4})
    spec = parse_spec(chat["spec"])
    pool = render_pool(chat, spec, "decode", 3)
    assert faults(pool) == []
    actions = cluster_status(chat, spec, Observed(), 0.0)
    actions += pool_status(pool, PoolSize(3, 3, (), 120), Resize(3), Recommendation(3, "why"), 0.0)
    for action in actions:
        if isinstance(action, Apply):
            spec_of = chat if action.manifest["kind"] == "PDCluster" else pool
            assert faults({**action.manifest, "spec": spec_of["spec"]}) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"decode": {"replicas": 0}}, "less than the minimum of 1"),
        ({"decode": {"gpus": 65}}, "greater than the maximum of 64"),
        ({"scaling": {"mode": "Auto"}}, "'Auto' is not one of ['Fixed', 'External', 'Joint']"),
        ({"images": {"router": "x"}}, "'worker' is a required property"),
        ({"decode": {"replcas": 2}}, "'replcas' was unexpected"),
        ({"slo": [{"ttftSeconds": 1}]}, "'class' is a required property"),
        ({"model": {"path": "", "servedName": "x"}}, "should be non-empty"),
        ({"scaling": {"mode": "Joint"}}, "scaling.mode Joint shares out a budget; give budget.gpus, or choose Fixed"),
        ({"budget": {"gpus": 3}, "decode": {"gpus": 3}}, "budget.gpus must hold one prefill worker and one decode"),
        ({"decode": {"minReplicas": 3, "maxReplicas": 2, "replicas": 3}}, "minReplicas must not be above maxReplicas"),
        ({"prefill": {"replicas": 9, "maxReplicas": 8}}, "replicas must lie between minReplicas and maxReplicas"),
        ({"router": {"args": ["-x"]}}, "args are options such as --max-queue-s=2"),
    ],
)
def test_a_bad_spec_is_refused_with_a_clear_text(change: dict[str, Any], told: str) -> None:
    said = refusals(cluster(**change))
    assert any(told in each for each in said), said


@pytest.mark.parametrize("name", ["x" * 41, "9lives", "with.dot"])
def test_a_name_that_no_service_could_have_is_refused(name: str) -> None:
    assert any("metadata.name must be 40 characters at most" in each for each in refusals(cluster(name)))


def test_a_pool_keeps_to_its_bounds_its_role_and_its_cluster() -> None:
    chat = cluster(decode={"maxReplicas": 4})
    pool = render_pool(chat, parse_spec(chat["spec"]), "decode", 4)
    assert refusals(pool, pool) == []
    for change, told in (
        ({"replicas": 5}, "replicas must lie between minReplicas and maxReplicas, the bounds in the PDCluster"),
        ({"role": "prefill"}, "a pool keeps its role"),
        ({"cluster": "other"}, "a pool stays with its PDCluster"),
    ):
        assert refusals({**pool, "spec": {**pool["spec"], **change}}, pool) == [told]


@pytest.mark.parametrize(
    "change", [{}, {"budget": {"gpus": 4}, "decode": {"gpus": 3}}, {"router": {"args": ["--a=b"]}}]
)
def test_a_good_spec_is_let_in(change: dict[str, Any]) -> None:
    assert refusals(cluster(**change)) == []
