"""A Ray cluster of several nodes on this machine, bound to loopback."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from segue.cluster.on_ray.settings import NAMESPACE

# Node managers that believe in their neighbours' death sooner, so that tests needn't wait half a minute.
_SYSTEM = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}


@pytest.fixture(scope="session")
def ray() -> Any:
    """Ray itself. Nothing here imports it earlier than this, nor by itself."""
    # Before its import. Whatever its name says: with it Ray takes 127.0.0.1 for what it is on Linux, too.
    os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    os.environ["RAY_raylet_start_wait_time_s"] = "120"  # noqa: SIM112 - Ray spells it so
    return pytest.importorskip("ray")


@pytest.fixture(scope="module")
def nodes(ray: Any) -> Iterator[Any]:
    """A :class:`ray.cluster_utils.Cluster` with a head node that takes no workers; tests add the others."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "node_ip_address": "127.0.0.1", "_system_config": _SYSTEM}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        ray.init(address=cluster.address, namespace=NAMESPACE, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()
