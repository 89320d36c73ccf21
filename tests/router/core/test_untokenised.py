"""Requests whose prompts nobody has read yet: refused at once where they would wait too long, looked at seldom."""

from __future__ import annotations

from typing import Any

import pytest

from segue.base.errors import Overloaded
from segue.proto.kv_transfer_pb2 import BlockLayout
from segue.proto.worker_pb2 import EngineFacts, Load, Role, WorkerState
from segue.router.lifecycle import waiting_room
from segue.router.lifecycle.waiting_room import WaitingRoom
from segue.router.queueing.admission import Admission, Demand
from segue.router.workers.fleet import FleetSnapshot, WorkerView

DEMAND = Demand(60.0)


class Links:
    """A prefill worker with so many tokens of ours before it, and how often somebody looked."""

    def __init__(self) -> None:
        self.queued_tokens = 0
        self.looks = 0

    def snapshot(self) -> FleetSnapshot:
        self.looks += 1
        facts = EngineFacts(max_running_requests=64, layout=BlockLayout(block_tokens=16))
        decode, prefill = (
            WorkerView(
                worker_id=f"{role}",
                epoch="e",
                role=role,
                state=WorkerState.WORKER_STATE_READY,
                detail="",
                address="",
                facts=facts,
                load=Load(),
                assigned_requests=int(tokens > 0),
                assigned_tokens=tokens,
                assigned_prefill_tokens=tokens,
            )
            for role, tokens in ((Role.ROLE_DECODE, 0), (Role.ROLE_PREFILL, self.queued_tokens))
        )
        return FleetSnapshot((prefill, decode))


class Clock:
    """In the room's place of ``time``: it stands still unless it is told to go on."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(waiting_room, "time", made)
    return made


@pytest.fixture
def links() -> Links:
    return Links()


@pytest.fixture
def room(links: Links) -> WaitingRoom:
    as_links: Any = links
    return WaitingRoom(as_links, Admission(), lambda request, fleet: None, patience_s=1.0)


def test_of_many_alike_few_are_looked_at(room: WaitingRoom, links: Links) -> None:
    for _ in range(32):
        room.check_untokenised(DEMAND)
    assert links.looks < 32


@pytest.mark.parametrize("slo_class", ["chat", "batch"])
def test_what_is_left_of_deadlines_differs_and_few_are_looked_at(
    room: WaitingRoom, links: Links, slo_class: str
) -> None:
    for number in range(32):
        room.check_untokenised(Demand(50.0 - 1e-4 * number, slo_class=slo_class))
    assert links.looks <= 2


def test_after_a_moment_one_is_looked_at_again(room: WaitingRoom, links: Links, clock: Clock) -> None:
    for _ in range(4):
        room.check_untokenised(DEMAND)
        clock.now_s += 1.0
    assert links.looks == 4


def test_one_of_another_class_is_looked_at(room: WaitingRoom, links: Links) -> None:
    room.check_untokenised(DEMAND)
    room.check_untokenised(Demand(60.0, slo_class="documents"))
    room.check_untokenised(Demand(0.5))
    assert links.looks == 3


def test_once_there_is_too_much_to_do_it_is_found_within_a_few(room: WaitingRoom, links: Links) -> None:
    room.check_untokenised(DEMAND)
    links.queued_tokens = 10_000_000
    with pytest.raises(Overloaded):
        for _ in range(32):
            room.check_untokenised(DEMAND)


def test_whoever_comes_after_one_that_was_refused_is_looked_at(room: WaitingRoom, links: Links) -> None:
    links.queued_tokens = 10_000_000
    for _ in range(3):
        with pytest.raises(Overloaded):
            room.check_untokenised(DEMAND)
    assert links.looks == 3


def test_what_decode_computes_is_refused_for_no_queue_before_prefill(links: Links) -> None:
    as_links: Any = links
    room = WaitingRoom(as_links, Admission(), lambda request, fleet: None, 1.0, lambda fleet, tokens: tokens < 100)
    links.queued_tokens = 10**6
    room.check(Demand(60.0, prompt_tokens=64), links.snapshot())
    for demand in (Demand(60.0, prompt_tokens=200), Demand(1.0, prompt_tokens=64, slo_class="batch")):
        with pytest.raises(Overloaded, match="the wait for prefill"):
            room.check(demand, links.snapshot())
