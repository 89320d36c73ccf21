"""Requests that wait while no decode worker is ready: for as long as their own outage lasts, not an earlier one's."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from segue.base.errors import SegueError, Unavailable
from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.worker_pb2 import EngineFacts, Load, Role, WorkerState
from segue.router.lifecycle import waiting_room
from segue.router.lifecycle.waiting_room import WaitingRoom
from segue.router.queueing.admission import Admission, Demand
from segue.router.workers.fleet import FleetSnapshot, WorkerView

PATIENCE_S = 10.0
NOBODY = FleetSnapshot(())
DECODE = FleetSnapshot(
    (
        WorkerView(
            worker_id="decode-0",
            epoch="e",
            role=Role.ROLE_DECODE,
            state=WorkerState.WORKER_STATE_READY,
            detail="",
            address="",
            facts=EngineFacts(max_running_requests=64, layout=BlockLayout(block_tokens=16)),
            load=Load(),
            assigned_requests=0,
            assigned_tokens=0,
        ),
    )
)


@dataclass
class World:
    """A waiting room with a clock and a fleet that can be set."""

    monkeypatch: pytest.MonkeyPatch
    now_s: float = 1000.0
    fleet: FleetSnapshot = NOBODY
    started: list[str] = field(default_factory=list)
    failed: dict[str, SegueError] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.monkeypatch.setattr(waiting_room, "time", SimpleNamespace(monotonic=lambda: self.now_s))
        links: Any = SimpleNamespace(snapshot=lambda: self.fleet)
        self.room = WaitingRoom(
            links, Admission(), lambda request, fleet: self.started.append(request.request_id), PATIENCE_S
        )

    async def comes(self, name: str) -> None:
        request: Any = SimpleNamespace(
            request_id=name,
            generation=SimpleNamespace(tenant="", priority=0),
            accepted_s=self.now_s,
            fail=lambda error: self._fail(name, error),
        )
        self.room.enter(request, Demand(600.0, 16, 16, slo_class="batch"), self.fleet)
        await self.look()

    async def look(self) -> None:
        self.room.look_soon()
        await asyncio.sleep(0)

    def _fail(self, name: str, error: SegueError) -> None:
        self.failed[name] = error
        self.room.leave(name)


async def test_who_waits_for_a_pool_without_a_worker_is_told_when_patience_is_at_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    await world.comes("a")
    world.now_s += PATIENCE_S - 1
    await world.look()
    assert not world.failed
    world.now_s += 2
    await world.look()
    assert isinstance(world.failed["a"], Unavailable)


async def test_an_outage_that_is_over_takes_nothing_from_the_patience_of_the_next_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    await world.comes("a")
    world.now_s += 1
    world.fleet = DECODE
    await world.look()
    assert world.started == ["a"]

    world.now_s += 3600
    world.fleet = NOBODY
    await world.comes("b")
    assert not world.failed
    world.now_s += 1
    world.fleet = DECODE
    await world.look()
    assert world.started == ["a", "b"]
