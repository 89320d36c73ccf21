"""What things are called on Kubernetes, and how objects are named by each other."""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final

from segue.cluster.pools import PoolName

Manifest = dict[str, Any]

GROUP: Final = "segue.dev"
VERSION: Final = "v1alpha1"
API_VERSION: Final = f"{GROUP}/{VERSION}"

# Two field managers, because what one no longer applies is removed: whoever sets how many workers a pool has must be
# free to never say so again.
MANAGER: Final = "segue-operator"
SCALE_MANAGER: Final = "segue-operator-scale"

PART_OF: Final = "app.kubernetes.io/part-of"
COMPONENT: Final = "app.kubernetes.io/component"
INSTANCE: Final = "app.kubernetes.io/instance"
MANAGED_BY: Final = "app.kubernetes.io/managed-by"

# On pods. Kubernetes deletes pods of the lowest cost first; 0 is the default.
DELETION_COST: Final = "controller.kubernetes.io/pod-deletion-cost"
COST_OF_LEAVERS: Final = "-1000"
LEAVING_SINCE: Final = f"{GROUP}/leaving-since"  # Seconds since 1970.
LEAVE_FIRST: Final = f"{GROUP}/leave-first"  # Since when somebody wants this very worker to leave; seconds since 1970.

# On what the operator applies: a digest of all that it applied, so that a field it no longer has is noticed too.
APPLIED: Final = f"{GROUP}/applied"

COMPONENTS: Final[dict[PoolName, str]] = {"prefill": "prefill-worker", "decode": "decode-worker"}


def pool_name(cluster: str, role: PoolName) -> str:
    """Of the PDPool and of its Deployment."""
    return f"{cluster}-{role}"


def labels_of(cluster: str) -> dict[str, str]:
    """On everything that belongs to a cluster."""
    return {"app.kubernetes.io/name": "segue", PART_OF: "segue", INSTANCE: cluster}


def digest_of(value: Any) -> str:
    """The same for equal JSON values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def owned_by(owner: Manifest) -> list[Manifest]:
    """The ownerReferences of what goes when ``owner`` goes, which must have been read from the API server."""
    return [
        {
            "apiVersion": owner["apiVersion"],
            "kind": owner["kind"],
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "controller": True,
            # Blocking would need the right to set the owner's finalizers.
            "blockOwnerDeletion": False,
        }
    ]
