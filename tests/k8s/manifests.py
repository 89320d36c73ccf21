"""Kustomize's output, as Python objects."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from segue.cluster.pools import POOL_NAMES
from segue.operator.render import render_cluster, render_pool, render_workers
from segue.operator.spec import parse_spec

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.parent.name for path in (K8S / "overlays").glob("*/kustomization.yaml"))

Manifest = dict[str, Any]


@cache
def rendered(overlay: str) -> tuple[Manifest, ...]:
    """All objects of one overlay. Skips the test where no Kustomize is installed."""
    for command in (["kustomize", "build"], ["kubectl", "kustomize"]):
        if shutil.which(command[0]):
            built = subprocess.run(
                [*command, str(K8S / "overlays" / overlay)], capture_output=True, text=True, check=False
            )
            assert built.returncode == 0, built.stderr
            return tuple(yaml.safe_load_all(built.stdout))
    pytest.skip("neither kustomize nor kubectl is installed")


def of_kind(manifests: tuple[Manifest, ...], *kinds: str) -> list[Manifest]:
    return [manifest for manifest in manifests if manifest["kind"] in kinds]


def with_what_the_operator_makes(manifests: tuple[Manifest, ...]) -> tuple[Manifest, ...]:
    """For each PDCluster all that the operator makes of it, too."""
    made: list[Manifest] = []
    for cluster in of_kind(manifests, "PDCluster"):
        owner = deepcopy(cluster)
        owner["metadata"]["uid"] = "uid"
        spec = parse_spec(owner["spec"])
        made += render_cluster(owner, spec)
        for role in POOL_NAMES:
            pool = render_pool(owner, spec, role, spec.pool(role).replicas)
            pool["metadata"]["uid"] = "uid"
            made += [pool, render_workers(owner, spec, role, pool, spec.pool(role).replicas)]
    return (*manifests, *made)


def pod_templates(manifests: tuple[Manifest, ...]) -> Iterator[tuple[str, Manifest]]:
    """Of every workload: its name and its pod template."""
    for manifest in of_kind(manifests, "Deployment", "StatefulSet"):
        yield manifest["metadata"]["name"], manifest["spec"]["template"]


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a label selector, plain or with expressions, takes these labels."""
    plain = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
    expressions = selector.get("matchExpressions", [])
    assert all(expression["operator"] == "In" for expression in expressions), "only In is understood here"
    return all(labels.get(key) == value for key, value in plain.items()) and all(
        labels.get(expression["key"]) in expression["values"] for expression in expressions
    )


def option(args: list[str], name: str) -> str:
    """The value of ``--name=value``. Raises StopIteration without it."""
    return next(arg.partition("=")[2] for arg in args if arg.startswith(f"--{name}="))
