"""Where Ray puts workers that ask for GPUs, kinds of accelerators and labels: nodes only claim them here."""

from __future__ import annotations

import os
from typing import Any

import pytest

from segue.cli.on_ray import ray_pool
from segue.cluster.on_ray.settings import RayPool, actor_options

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PLACED_WITHIN_S = 120


class Seen:
    """In a worker's place."""

    def tell(self) -> tuple[str, str]:
        import ray

        return ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", "")


def placed(pool: RayPool, name: str) -> tuple[str, int]:
    """The node of a worker, and how many GPUs it sees there."""
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    from segue.cluster.on_ray.pools import reserve

    strategy = PlacementGroupSchedulingStrategy(reserve(pool, name), placement_group_bundle_index=0)
    actor = ray.remote(Seen).options(scheduling_strategy=strategy, **actor_options(pool)).remote()
    node, gpus = ray.get(actor.tell.remote(), timeout=PLACED_WITHIN_S)
    return node, len(gpus.split(",")) if gpus else 0


def test_each_pool_is_placed_on_its_own_kind_of_node(nodes: Any) -> None:
    here: dict[str, Any] = {"node_ip_address": "127.0.0.1", "num_cpus": 2, "num_gpus": 4}
    fast = nodes.add_node(resources={"accelerator_type:H100": 1, "fast-nic": 2}, labels={"zone": "a"}, **here)
    wide = nodes.add_node(resources={"accelerator_type:H200": 1}, labels={"zone": "b", "market": "spot"}, **here)
    prefill = ray_pool(1, ["num_gpus=4", "accelerator_type=H100", "fast-nic=1", "num_cpus=0.5"], "--prefill-ray")
    decode = ray_pool(1, ["num_gpus=0.5", "accelerator_type=H200", "num_cpus=0.5"], "--decode-ray")
    labelled = ray_pool(1, ["label:zone=in(a,b)", "label:market=!spot", "num_cpus=0.5"], "--decode-ray")
    assert placed(prefill, "prefill-0") == (fast.node_id, 4), "one engine has all four"
    assert [placed(decode, f"decode-{number}") for number in range(2)] == [(wide.node_id, 1)] * 2
    assert placed(labelled, "decode-2")[0] == fast.node_id
