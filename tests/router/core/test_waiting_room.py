"""Requests that wait for a worker, between the dispatcher and the queue: every one of them ends."""

from __future__ import annotations

import asyncio

import pytest

from segue.base.errors import DeadlineExceeded, Overloaded, Unavailable
from segue.router.lifecycle.records import RequestRecord, RouterObserver
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import until
from tests.router.core.world import Sink, World

# Two decode workers of one place each, and one answer more on each so that neither is idle in between.
STARTED = 4


class Records(RouterObserver):
    def __init__(self) -> None:
        self.finished: list[RequestRecord] = []
        self.refused: list[tuple[str, str, str]] = []

    def on_refused(self, tenant: str, slo_class: str, code: str) -> None:
        self.refused.append((tenant, slo_class, code))

    def on_finished(self, record: RequestRecord) -> None:
        self.finished.append(record)


@pytest.fixture
def world(codec: TextCodec) -> World:
    world = World(codec, places=1)
    world.dispatcher.around.observer = Records()
    return world


def records(world: World) -> Records:
    assert isinstance(world.dispatcher.around.observer, Records)
    return world.dispatcher.around.observer


def fill(world: World) -> list[Sink]:
    sinks = [world.start() for _ in range(STARTED)]
    assert not world.dispatcher.waiting
    return sinks


def sent(world: World) -> int:
    world.deliver()
    return sum(len(life.held) for life in world.lives)


async def test_with_no_place_free_a_request_waits_and_starts_when_one_is(world: World) -> None:
    running = fill(world)
    waits = world.start()
    assert (len(world.dispatcher.waiting), sent(world)) == (1, STARTED)
    running[0].give_up()
    await asyncio.sleep(0)
    assert (len(world.dispatcher.waiting), sent(world)) == (0, STARTED)
    await world.finish_all()
    world.assert_nothing_is_left()
    assert waits.responses[-1].timings.queue_s > 0
    assert waits.responses[-1].timings.ttft_s >= waits.responses[-1].timings.queue_s


async def test_batch_starts_behind_chat(world: World) -> None:
    fill(world)
    batch, chat = world.start(slo_class="batch"), world.start(slo_class="chat")
    await world.finish_all()
    assert chat.responses[0].request_id != batch.responses[0].request_id
    ends = [record.slo_class for record in records(world).finished]
    assert ends.index("chat") < ends.index("batch")


async def test_a_deadline_that_passes_in_the_queue_is_one_error(world: World) -> None:
    fill(world)
    waits = world.start()
    before = sent(world)
    world.dispatcher.expire(waits.handle)  # type: ignore[arg-type]
    assert [type(error) for error in waits.errors] == [DeadlineExceeded]
    assert "before a worker had room" in waits.errors[0].message
    assert (len(world.dispatcher.waiting), sent(world)) == (0, before)
    (record,) = records(world).finished
    assert (record.outcome, record.tenant, record.usage.prompt_tokens) == ("deadline_exceeded", "alice", 0)
    assert record.timings.queue_s > 0
    await world.finish_all()


async def test_who_cancels_leaves_the_queue_at_once(world: World) -> None:
    fill(world)
    waits = world.start()
    waits.give_up()
    assert not world.dispatcher.waiting
    assert [record.outcome for record in records(world).finished] == ["cancelled"]
    await world.finish_all()
    world.assert_nothing_is_left()


async def test_those_who_wait_for_a_pool_that_is_gone_are_told(world: World) -> None:
    fill(world)
    waits = world.start()
    for worker_id in ("decode-0", "decode-1"):
        world.lose(worker_id)
    await until(lambda: waits.over)
    assert [type(error) for error in waits.errors] == [Unavailable]
    assert "no decode worker is ready" in waits.errors[0].message
    await world.finish_all()
    world.assert_nothing_is_left()


async def test_those_who_wait_start_on_a_worker_that_attaches(world: World) -> None:
    fill(world)
    waits = world.start()
    world.attach("decode-2", world.links.get("decode-0").register.role)  # type: ignore[union-attr]
    await until(lambda: not world.dispatcher.waiting)
    await world.finish_all()
    assert not waits.errors


async def test_a_drain_lets_those_who_wait_finish(world: World) -> None:
    fill(world)
    waits = world.start()
    draining = asyncio.create_task(world.dispatcher.drain(30.0))
    await asyncio.sleep(0)
    await world.finish_all()
    await draining
    assert not waits.errors


async def test_a_drain_that_is_over_ends_those_who_wait(world: World) -> None:
    fill(world)
    waits = world.start()
    await world.dispatcher.drain(0.0)
    assert [type(error) for error in waits.errors] == [Unavailable]
    world.deliver()
    world.assert_nothing_is_left()


async def test_every_end_is_recorded(codec: TextCodec) -> None:
    world = World(codec, max_concurrent_requests=2)
    world.dispatcher.around.observer = Records()
    world.start(max_tokens=2)
    second = world.start()
    with pytest.raises(Overloaded):
        world.start()
    second.give_up()
    await world.finish_all()
    assert [record.outcome for record in records(world).finished] == ["cancelled", "ok"]
    ok = records(world).finished[1]
    assert (ok.usage.prompt_tokens, ok.usage.output_tokens, ok.model) == (4, 2, "tiny")
    assert records(world).refused == [("alice", "", "overloaded")]
