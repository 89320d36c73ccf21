"""The definitions of our kinds, as the API server takes them: defaults filled in, and checked as OpenAPI v3."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from segue.operator.names import Manifest

COMPONENT = Path(__file__).parents[3] / "k8s" / "components" / "operator"


@cache
def definitions() -> dict[str, Manifest]:
    """Of each kind its CustomResourceDefinition."""
    found = [yaml.safe_load(path.read_text()) for path in sorted(COMPONENT.glob("crd-*.yaml"))]
    return {one["spec"]["names"]["kind"]: one for one in found}


@cache
def allowed_calls() -> frozenset[tuple[str, str, str]]:
    """What the operator's role lets it do, as (verb, API group, resource)."""
    manifests = yaml.safe_load_all((COMPONENT / "rights.yaml").read_text())
    (role,) = (one for one in manifests if one["kind"] == "ClusterRole")
    return frozenset(
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    )


def schema_of(kind: str) -> Manifest:
    (version,) = definitions()[kind]["spec"]["versions"]
    schema: Manifest = version["schema"]["openAPIV3Schema"]
    return schema


def defaulted(value: Any, schema: Manifest) -> Any:
    """With the defaults that the API server fills in, those of a default among them."""
    if isinstance(value, dict):
        value = dict(value)
        for name, inner in schema.get("properties", {}).items():
            if name not in value and "default" in inner:
                value[name] = deepcopy(inner["default"])
            if name in value:
                value[name] = defaulted(value[name], inner)
    if isinstance(value, list) and "items" in schema:
        return [defaulted(item, schema["items"]) for item in value]
    return value


def faults(manifest: Manifest) -> list[str]:
    """What the schema says against an object, without the rules in CEL. Unknown fields count: they would be dropped."""
    closed = _closed(schema_of(manifest["kind"]))
    filled = defaulted(manifest, schema_of(manifest["kind"]))
    return [error.message for error in jsonschema.Draft202012Validator(closed).iter_errors(filled)]


def _closed(schema: Manifest, top: bool = True) -> Manifest:
    """The same, but unknown fields are refused wherever fields are listed."""
    result = dict(schema)
    for part in ("items",):
        if part in result:
            result[part] = _closed(result[part], False)
    if "properties" in result:
        result["properties"] = {
            name: inner if top and name == "metadata" else _closed(inner, False)
            for name, inner in result["properties"].items()
        }
        result["additionalProperties"] = False
    return result
