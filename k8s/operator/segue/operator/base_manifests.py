"""The manifests of k8s/base as Kustomize would build them: the one source of what a pod of ours looks like."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from segue.operator.names import Manifest


@cache
def base_manifests() -> tuple[Manifest, ...]:
    """Every object of the base. They are shared: copy before changing one."""
    folder = _folder()
    kustomization: Manifest = yaml.safe_load((folder / "kustomization.yaml").read_text())
    return tuple(
        manifest
        for resource in kustomization["resources"]
        for manifest in yaml.safe_load_all((folder / resource).read_text())
    )


def base_manifest(kind: str, name: str) -> Manifest:
    """Raises KeyError: the base has no such object."""
    for manifest in base_manifests():
        if (manifest["kind"], manifest["metadata"]["name"]) == (kind, name):
            return manifest
    raise KeyError(f"k8s/base has no {kind} {name}")


def _folder() -> Traversable | Path:
    """In a wheel they lie beside this module (see pyproject.toml), in the source tree where they are."""
    packaged = files("segue.operator") / "base"
    return packaged if packaged.is_dir() else Path(__file__).parents[3] / "base"


def labelled(manifest: Manifest, labels: dict[str, str]) -> None:
    """Put ``labels`` on an object and into its selectors, as Kustomize's ``includeSelectors`` does."""
    _add(manifest["metadata"], "labels", labels)
    spec = manifest.get("spec", {})
    if manifest["kind"] == "Service":
        _add(spec, "selector", labels)
    if manifest["kind"] == "Deployment":
        _add(spec["selector"], "matchLabels", labels)
        _add(spec["template"]["metadata"], "labels", labels)
        for constraint in spec["template"]["spec"].get("topologySpreadConstraints", []):
            _add(constraint["labelSelector"], "matchLabels", labels)


def _add(parent: dict[str, Any], field: str, labels: dict[str, str]) -> None:
    parent[field] = {**parent.get(field, {}), **labels}
