"""Where new workers of this machine go, and when they start; without processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from segue.base.errors import Conflict
from segue.cluster.environment import Device, Machine
from segue.cluster.local import LocalCluster, PoolSettings
from segue.cluster.local_pools import LocalPools
from segue.cluster.ports import Ports
from segue.cluster.process import ProcessSpec
from segue.cluster.resizing import nobody_works
from segue.cluster.restarts import Death
from segue.cluster.supervisor import Started, Stopped


class Supervised:
    """Remembers what it was asked."""

    def __init__(self) -> None:
        self.added: list[ProcessSpec] = []
        self.gone: list[str] = []

    def add(self, spec: ProcessSpec) -> None:
        self.added.append(spec)

    def let_go(self, name: str) -> None:
        self.gone.append(name)


def pools(device: Device, prefill: int, decode: int, devices: int) -> tuple[LocalPools, Supervised]:
    cluster = LocalCluster(
        "model", Path("/run"), Ports(1, 2, 3), device, prefill=PoolSettings(prefill), decode=PoolSettings(decode)
    )
    gpus = tuple(str(number) for number in range(devices)) if device == "cuda" else ()
    made = LocalPools(cluster, Machine(tuple(range(devices)), gpus), nobody_works)
    supervised = Supervised()
    made.supervise_by(supervised)  # type: ignore[arg-type]
    return made, supervised


def places(made: LocalPools) -> dict[str, str]:
    return {worker.worker_id: worker.place for pool in made.view().pools for worker in pool.workers}


async def test_a_worker_that_takes_the_gpu_of_one_that_leaves_starts_when_that_has_gone() -> None:
    made, supervised = pools("cuda", prefill=1, decode=2, devices=3)
    await made.scale({"prefill": 2, "decode": 1})
    assert supervised.gone == ["decode-1"]
    assert supervised.added == [], "two engines would want the memory of one GPU"
    assert [pool.desired for pool in made.view().pools] == [2, 1]
    assert places(made)["prefill-1"] == places(made)["decode-1"] == "gpu 2"
    made.on_event(Stopped("decode-1", Death(0, 60.0)))
    (spec,) = supervised.added
    assert (spec.name, spec.environment["CUDA_VISIBLE_DEVICES"]) == ("prefill-1", "2")
    made.on_event(Started("prefill-1", 4711))
    assert {worker.phase for pool in made.view().pools for worker in pool.workers} == {"running"}


async def test_one_that_still_waits_for_its_gpu_goes_without_having_begun() -> None:
    made, supervised = pools("cuda", prefill=1, decode=2, devices=3)
    await made.scale({"prefill": 2, "decode": 1})
    await made.scale({"prefill": 1})
    assert list(places(made)) == ["prefill-0", "decode-0", "decode-1"]
    made.on_event(Stopped("decode-1", Death(0, 60.0)))
    assert supervised.added == []


async def test_pools_that_share_gpus_may_shrink_and_not_grow() -> None:
    made, supervised = pools("cuda", prefill=2, decode=2, devices=2)
    with pytest.raises(Conflict, match="5 workers are wanted in all, and this machine has 2 GPUs"):
        await made.scale({"decode": 3})
    await made.scale({"decode": 1})
    assert supervised.gone == ["decode-1"]


async def test_a_new_worker_has_the_core_that_the_fewest_others_have() -> None:
    made, supervised = pools("cpu", prefill=3, decode=3, devices=2)
    for leaver in ("prefill-0", "prefill-1", "decode-0", "decode-2"):
        await made.drain(leaver)
        made.on_event(Stopped(leaver, Death(0, 60.0)))
    assert places(made) == {"prefill-2": "core 0", "decode-1": "core 0"}
    await made.scale({"decode": 2})
    assert places(made)["decode-0"] == "core 1"
    assert supervised.added[0].environment["VLLM_CPU_OMP_THREADS_BIND"] == "1"
