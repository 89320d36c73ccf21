"""Pools on Ray with actors that only pretend: what the manager does when they answer late, twice or not at all."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from segue.base.errors import SettingsError
from segue.cluster.on_ray.process_actor import Place, ProcessActor
from segue.cluster.on_ray.settings import RayCluster, RouterPorts
from segue.cluster.pools import POOL_NAMES
from segue.cluster.resizing import nobody_works

if TYPE_CHECKING:  # They import Ray.
    from segue.cluster.on_ray.manager import Manager
    from segue.cluster.on_ray.pools import RayPools

POOLS = "segue.cluster.on_ray.pools"
MANAGER = "segue.cluster.on_ray.manager"
CLUSTER = RayCluster("model", "/log", drain_timeout_s=30.0)
PORTS = RouterPorts("127.0.0.1", 1, 2, 3)


class Actor:
    """``place`` None: it never answers, as one that waits for resources."""

    def __init__(self, place: Place | None = None) -> None:
        self.placed = place
        self.stopped = 0
        self.ended = asyncio.Event()
        self.place = SimpleNamespace(remote=self._place)
        self.stop = SimpleNamespace(remote=self._stop)

    async def _place(self) -> Place:
        if self.placed is None:
            await asyncio.Event().wait()
        assert self.placed is not None
        return self.placed

    async def _stop(self, grace_s: float) -> int:
        self.stopped += 1
        assert grace_s > CLUSTER.drain_timeout_s, "it drains as long as it may, and then has an engine to end"
        if self.placed is None:
            await asyncio.Event().wait()
        await self.ended.wait()
        return 0


class Ray:
    """Of Ray what the pools ask of it."""

    def __init__(self, actors: dict[str, Actor]) -> None:
        self.actors = actors
        self.util = SimpleNamespace(list_named_actors=lambda: list(actors), get_placement_group=lambda name: name)

    def get_actor(self, name: str) -> Actor:
        return self.actors[name]

    def kill(self, actor: Actor, *, no_restart: bool) -> None:
        assert no_restart
        self.actors = {name: one for name, one in self.actors.items() if one is not actor}


@pytest.fixture
def patched(ray: Any, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(f"{POOLS}._ANSWER_S", 0.05)
    monkeypatch.setattr(f"{POOLS}._LOOK_S", 0.01)
    monkeypatch.setattr(f"{POOLS}.remove_placement_group", lambda group: None)
    return monkeypatch


@asynccontextmanager
async def watched(patched: pytest.MonkeyPatch, ray: Ray) -> AsyncIterator[RayPools]:
    """The pools of a manager that finds these actors."""
    from segue.cluster.on_ray.pools import RayPools

    patched.setattr(f"{POOLS}.ray", ray)
    pools = RayPools(CLUSTER, PORTS, nobody_works)
    pools.adopt()
    watching = asyncio.create_task(pools.watch_actors())
    yield pools
    watching.cancel()
    await asyncio.wait([watching])


async def until(pools: RayPools, **phases: str) -> None:
    async for view in pools.watch():
        seen = {one.worker_id: one.phase for pool in view.pools for one in pool.workers}
        if seen == {name.replace("_", "-"): phase for name, phase in phases.items()}:
            return


def place(pid: int, *, stopping: bool = False) -> Place:
    return Place("127.0.0.1", "node", pid, stopping=stopping)


async def test_one_that_waits_for_resources_holds_up_no_look_at_the_others(patched: pytest.MonkeyPatch) -> None:
    patched.setattr(f"{POOLS}._ANSWER_S", 3600.0)
    actors = {"prefill-0": Actor(), "decode-0": Actor(place(1)), "decode-1": Actor(place(2))}
    async with watched(patched, Ray(actors)) as pools:
        await until(pools, prefill_0="restarting", decode_0="running", decode_1="running")
        actors["decode-0"].placed = place(3)
        while sum(one.restarts for one in pools.workers("decode")) != 1:
            await asyncio.sleep(0.01)


async def test_one_that_runs_nowhere_is_let_go_without_waiting_for_its_drain(patched: pytest.MonkeyPatch) -> None:
    actors = {"prefill-0": Actor(place(1)), "decode-0": Actor(place(2)), "decode-1": Actor()}
    async with watched(patched, ray := Ray(actors)) as pools:
        await until(pools, prefill_0="running", decode_0="running", decode_1="restarting")
        await pools.scale({"decode": 1})
        await until(pools, prefill_0="running", decode_0="running")
    assert sorted(ray.actors) == ["decode-0", "prefill-0"]
    assert actors["decode-1"].stopped == 0


async def test_one_that_a_manager_before_let_go_leaves_once(patched: pytest.MonkeyPatch) -> None:
    leaving = Actor(place(3, stopping=True))
    actors = {"prefill-0": Actor(place(1)), "decode-0": Actor(place(2)), "decode-1": leaving}
    async with watched(patched, Ray(actors)) as pools:
        await until(pools, prefill_0="running", decode_0="running", decode_1="leaving")
        await asyncio.sleep(0.05)  # Several looks.
        leaving.ended.set()
        await until(pools, prefill_0="running", decode_0="running")
    assert leaving.stopped == 1


class Process:
    """Ends with its second signal, as a worker does that is told twice."""

    def __init__(self) -> None:
        self.signals: list[int] = []

    def send_signal(self, signum: int) -> None:
        self.signals.append(signum)

    def wait(self, timeout: float | None = None) -> int:
        return 0 if len(self.signals) == 1 else 143


def test_a_process_that_drains_is_not_signalled_again_by_the_next_manager() -> None:
    actor = ProcessActor.__new__(ProcessActor)
    process = Process()
    fields: dict[str, Any] = {"_process": process, "_stopping": False, "_place": place(1)}
    vars(actor).update(fields, _keeper=SimpleNamespace(join=lambda: None))
    assert [actor.stop(1.0), actor.stop(1.0)] == [0, 0]
    assert process.signals == [signal.SIGTERM]
    assert actor.place().stopping


class RefusedPort:
    """In place of the pools' port, which somebody else has."""

    async def __aenter__(self) -> str:
        raise SettingsError("can't listen on 127.0.0.1:9600; choose another --pools-port")

    async def __aexit__(self, *_: object) -> None:
        """Never entered."""


def a_manager(patched: pytest.MonkeyPatch, router: Actor) -> Manager:
    from segue.cluster.on_ray.manager import Manager

    made = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda _: router))
    context = SimpleNamespace(was_current_actor_reconstructed=False)
    util = SimpleNamespace(get_node_ip_address=lambda: "127.0.0.1", list_named_actors=list)
    fake = SimpleNamespace(
        util=util,
        remote=lambda _: made,
        get_runtime_context=lambda: context,
        kill=lambda actor, *, no_restart: router.ended.set(),
    )
    patched.setattr(f"{MANAGER}.ray", fake)
    patched.setattr(f"{POOLS}.ray", fake)
    return Manager(CLUSTER, "token")


async def test_a_cluster_that_could_not_start_can_be_ended_and_has_no_workers(patched: pytest.MonkeyPatch) -> None:
    router = Actor(place(1))
    router.ended.set()
    manager = a_manager(patched, router)
    patched.setattr(f"{MANAGER}.serve_pools", lambda *_, **__: RefusedPort())
    for _ in range(2):
        with pytest.raises(SettingsError, match="choose another --pools-port"):
            await manager.start()
    assert manager._pools is not None
    assert [manager._pools.workers(pool) for pool in POOL_NAMES] == [[], []]
    assert await manager.stop() is None
    assert router.stopped == 1


async def test_whoever_asks_again_for_the_end_waits_for_the_same_one(patched: pytest.MonkeyPatch) -> None:
    """As after a ``segue down`` that was interrupted."""
    patched.setattr(f"{POOLS}.RayPools.start", lambda self: None)
    router = Actor(place(1))
    manager = a_manager(patched, router)
    addresses = await manager.start()
    first = asyncio.create_task(manager.stop())
    while not router.stopped:
        await asyncio.sleep(0)
    first.cancel()
    with pytest.raises(SettingsError, match="is being ended"):
        await manager.start()
    router.ended.set()
    assert [await manager.stop(), await manager.stop()] == [addresses, addresses]
    assert router.stopped == 1
