"""The definitions of our kinds, as the API server takes them: defaults filled in, schemas and rules kept."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import celpy
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
    return _faults(defaulted(manifest, schema_of(manifest["kind"])), schema_of(manifest["kind"]))


def objections(value: Manifest, schema: Manifest) -> list[str]:
    """What a schema says against an object, and the rules in it if that is kept. Unknown fields count."""
    return _faults(value, schema) or list(_broken(value, None, schema))


def _faults(value: Manifest, schema: Manifest) -> list[str]:
    errors = jsonschema.Draft202012Validator(_closed(schema)).iter_errors(value)
    return [f"{error.json_path}: {error.message}" for error in errors]


def refusals(manifest: Manifest, before: Manifest | None = None) -> list[str]:
    """What the API server would say against an object: by its schema, and by the rules in CEL if that is kept."""
    schema = schema_of(manifest["kind"])
    filled = defaulted(manifest, schema)
    return faults(manifest) or list(_broken(filled, before, schema))


def _broken(value: Any, before: Any, schema: Manifest) -> Iterator[str]:
    for rule in schema.get("x-kubernetes-validations", []):
        names = {"self": value} if "oldSelf" not in rule["rule"] else {"self": value, "oldSelf": before}
        if None not in names.values() and not _evaluated(rule["rule"], names):
            yield rule["message"]
    if isinstance(value, dict):
        for name, inner in schema.get("properties", {}).items():
            if name in value:
                yield from _broken(value[name], (before or {}).get(name), inner)
    if isinstance(value, list) and "items" in schema:
        for item in value:
            yield from _broken(item, None, schema["items"])


def _evaluated(expression: str, names: dict[str, Any]) -> Any:
    result = _program(expression).evaluate({name: celpy.json_to_cel(value) for name, value in names.items()})
    assert not isinstance(result, Exception), f"{expression}: {result}"
    return result


@cache
def _program(expression: str) -> Any:
    environment = celpy.Environment()
    return environment.program(environment.compile(expression))


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
