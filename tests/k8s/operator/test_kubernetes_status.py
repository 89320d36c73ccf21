"""``segue status --kubernetes``: a PDCluster as its objects say it is."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segue.cli.main import app
from segue.operator.api import Api
from segue.operator.kubernetes_pools import KubernetesPools
from segue.operator.shown import resources_of
from tests.k8s.operator.conftest import World


@dataclass(frozen=True)
class Said:
    exit_code: int
    output: str


async def status(*args: str) -> Said:
    said = await asyncio.to_thread(CliRunner().invoke, app, ["status", "--kubernetes", *args])
    return Said(said.exit_code, said.output)


@pytest.fixture(autouse=True)
def kubeconfig(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KUBECONFIG", world.kubeconfig(tmp_path))


async def test_a_cluster_that_serves_is_shown_with_its_pools_and_workers(world: World) -> None:
    async with world.operator():
        await world.put(decode={"replicas": 2})
        await world.settle(world.ready)
    said = await status("segue/chat")
    assert said.exit_code == 0, said.output
    for part in ("Serving: 2 routers, 1 prefill and 2 decode", "node-1", "scaling: External", "chat.segue.svc:8000"):
        assert part in said.output
    assert said.output.count("chat-decode-") == 2 * 2, "name and process of each"


async def test_what_mode_joint_decided_is_shown_there_and_in_the_pools(world: World) -> None:
    async with world.operator():
        await world.put(scaling={"mode": "Joint"}, budget={"gpus": 4}, router={"replicas": 1})
        await world.settle(world.ready)
    pool = world.api.find("PDPool", "chat-decode")
    assert pool is not None
    pool["status"] |= {"recommended": 3, "reason": "1+3 serves 20 requests/s; decode waits for GPUs"}
    await world.api.write("PDPool", pool)
    said = await status("segue/chat")
    assert "scaling: Joint" in said.output
    assert "1+3 serves 20 requests/s; decode waits for GPUs" in said.output
    assert "nothing decided yet" in said.output, "of prefill"
    told = json.loads((await status("segue/chat", "--json")).output)
    assert [one["recommended"] for one in told["managed_pools"]["pools"] if "recommended" in one] == [3]
    async with Api(world.login) as api, KubernetesPools(api, "segue", "chat") as pools:
        await world.settle(lambda: pools.view().pools)
        assert (pools.view().of("decode").recommended, pools.view().of("prefill").recommended) == (3, None)


async def test_what_is_wrong_is_said_and_ends_with_1(world: World) -> None:
    await world.put()
    unseen = await status("segue/chat")
    assert (unseen.exit_code, "the operator hasn't looked at it yet" in unseen.output) == (1, True)
    async with world.operator():
        await world.put(prefill={"args": ["--port=1"]})
        await world.settle(lambda: world.condition("PDCluster", "chat", "Accepted"))
    refused = await status("segue/chat")
    assert (refused.exit_code, "args has --port, which the operator sets" in refused.output) == (1, True)


async def test_a_cluster_that_is_not_there_is_no_cluster(world: World) -> None:
    said = await status("segue/other")
    assert said.exit_code == 2
    assert "there is no PDCluster other in namespace segue" in said.output


def test_what_a_pod_has_to_itself_is_what_its_containers_ask_for() -> None:
    one = {"resources": {"requests": {"cpu": "1500m"}, "limits": {"nvidia.com/gpu": "2", "memory": "1Gi"}}}
    assert resources_of({"spec": {"containers": [one, {"resources": {"requests": {"cpu": "2"}}}, {}]}}) == {
        "CPU": 3.5,
        "GPU": 2.0,
    }
    assert resources_of({}) == {}
    for written, cpus in (("1500m", 1.5), ("250000u", 0.25), ("0.5", 0.5), ("1k", 1000.0)):
        assert resources_of({"spec": {"containers": [{"resources": {"requests": {"cpu": written}}}]}}) == {"CPU": cpus}
