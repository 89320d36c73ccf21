"""A PDCluster for tests."""

from __future__ import annotations

from typing import Any

from segue.operator.names import API_VERSION, Manifest
from tests.k8s.operator.schemas import defaulted, schema_of


def cluster(name: str = "chat", **spec: Any) -> Manifest:
    """As the API server gives it out."""
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "PDCluster",
        "metadata": {"name": name, "namespace": "segue", "uid": "uid-of-chat", "generation": 1},
        "spec": {
            "model": {"path": "/models/llama", "servedName": "llama"},
            "images": {"router": "segue-router:0.1.0", "worker": "segue-worker:0.1.0-cpu"},
            **spec,
        },
    }
    filled: Manifest = defaulted(manifest, schema_of("PDCluster"))
    return filled
