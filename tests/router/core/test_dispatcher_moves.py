"""Requests of a decode worker that drains or is lost go elsewhere, with their KV cache or to where one is."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from segue.base.block_hash import block_hashes
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import KvEvent, KvEvents, RequestOutput, Role, Status, WorkerState
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import FACTS
from tests.router.core.world import PROMPT, FakeWorker, Sink, World


@pytest.fixture
def world(codec: TextCodec) -> World:
    return World(codec)


def holder(world: World, role: Role) -> FakeWorker:
    """The one worker of this role that has work."""
    (life,) = (life for life in world.lives if life.alive and life.held and life.link.register.role == role)
    return life


def decoding(world: World, **sampling: Any) -> tuple[Sink, FakeWorker, str]:
    """A request with two tokens of nine; its decode worker and the id of its leg there."""
    sink = world.start(max_tokens=9, **sampling)
    world.deliver()
    prefill = holder(world, Role.ROLE_PREFILL)
    world.work(prefill, next(iter(prefill.held)))
    world.deliver()
    decode = holder(world, Role.ROLE_DECODE)
    (leg_id,) = decode.held
    world.work(decode, leg_id, tokens=2 if sampling else 1)
    return sink, decode, leg_id


def drain(world: World, life: FakeWorker) -> None:
    life.link.status = Status(state=WorkerState.WORKER_STATE_DRAINING, facts=FACTS)
    world.dispatcher.news.on_worker_state(life.link)
    world.deliver()


async def test_a_drained_decode_workers_requests_are_moved_with_their_kv_cache(world: World) -> None:
    sink, first, leg_id = decoding(world)
    drain(world, first)
    drain(world, first)
    assert first.asked_to_move == [leg_id], "asked once"
    ticket = Ticket(ticket_id="kv-moved", tokens=len(PROMPT) + 1, producer_id=first.link.worker_id, lease_s=30)
    del first.held[leg_id]
    aborted = FinishReason.FINISH_REASON_ABORT
    moved = RequestOutput(request_id=leg_id, finish_reason=aborted, offer=ticket)
    world.dispatcher.news.on_outputs(first.link, [moved])
    world.deliver()
    second = holder(world, Role.ROLE_DECODE)
    assert second is not first
    (submit,) = second.held.values()
    assert (list(submit.input_token_ids), submit.ticket) == ([*PROMPT, 300, 301], ticket)
    world.finish()
    assert sink.tokens(0) == [300 + step for step in range(9)]
    assert [one.worker for one in sink.responses[-1].timings.continuations] == [first.link.worker_id]
    world.assert_nothing_is_left()


def cached(life: FakeWorker, world: World, tokens: Sequence[int]) -> None:
    """The worker has told that it has the blocks of these tokens."""
    names = block_hashes(tokens, FACTS.layout.block_tokens)
    events = KvEvents(snapshot=True, events=[KvEvent(stored=KvEvent.Stored(blocks=names))])
    world.dispatcher.news.on_kv_events(life.link, events)


async def test_an_answer_that_has_lost_its_worker_goes_on_where_its_blocks_are(codec: TextCodec) -> None:
    """A block and a half of prompt; with its first tokens the second block is full, and three workers have it."""
    world = World(codec, prompt=tuple(range(600, 600 + FACTS.layout.block_tokens * 2 - 2)))
    for number in (2, 3):
        world.attach(f"prefill-{number}", Role.ROLE_PREFILL)
        world.attach(f"decode-{number}", Role.ROLE_DECODE)
    for _ in range(10):
        world.links.transfers.measured("prefill-0", "decode-0", 1 << 20, 0.1)
    sink, first, _ = decoding(world)
    so_far = [*world.prompt, *sink.tokens(0)]
    by_name = {life.link.worker_id: life for life in world.lives}
    with_answer = ("prefill-2", next(name for name in ("decode-3", "decode-2") if by_name[name] is not first))
    for name, life in by_name.items():
        if life is not first:
            cached(life, world, so_far if name in with_answer else world.prompt)
    world.lose(first.link.worker_id)
    world.deliver()
    assert holder(world, Role.ROLE_PREFILL) is by_name[with_answer[0]]
    world.work(by_name[with_answer[0]], next(iter(by_name[with_answer[0]].held)))
    world.deliver()
    assert holder(world, Role.ROLE_DECODE) is by_name[with_answer[1]]
    world.finish()
    assert sink.tokens(0) == [300 + step for step in range(9)]
    world.assert_nothing_is_left()


async def test_nothing_moves_while_there_is_nowhere_to_go(world: World) -> None:
    world.lose("decode-1")
    sink, first, leg_id = decoding(world)
    drain(world, first)
    assert first.asked_to_move == []
    world.dispatcher.news.on_worker_state(world.attach("decode-1", Role.ROLE_DECODE).link)
    world.deliver()
    assert first.asked_to_move == [leg_id]
    world.finish()
    assert sink.tokens(0) == [300 + step for step in range(9)]


async def test_what_must_be_replayed_stays_where_it_is(world: World) -> None:
    sink, first, _ = decoding(world, seed=3)
    drain(world, first)
    assert first.asked_to_move == []
    world.finish()
    assert sink.tokens(0) == [300 + step for step in range(9)]


async def test_a_lease_is_renewed_until_decode_speaks(world: World) -> None:
    world.start(max_tokens=9)
    world.deliver()
    prefill = holder(world, Role.ROLE_PREFILL)
    world.work(prefill, next(iter(prefill.held)))
    begun_s = time.monotonic()
    for after_s in (5.0, 11.0, 12.0, 22.0):
        world.dispatcher.renew(begun_s + after_s)
    world.deliver()
    assert prefill.renewed == list(prefill.offered) * 2
    decode = holder(world, Role.ROLE_DECODE)
    world.work(decode, next(iter(decode.held)))
    world.dispatcher.renew(begun_s + 99)
    world.deliver()
    assert len(prefill.renewed) == 2
    world.finish()
    world.assert_nothing_is_left()


async def test_a_decode_worker_that_turned_before_prefill_ended_is_not_sent_what_was_planned_for_it(
    world: World,
) -> None:
    sink = world.start()
    world.deliver()
    (planned,) = {life.link.worker_id for life in world.lives if life.link.assigned_requests} - {
        holder(world, Role.ROLE_PREFILL).link.worker_id
    }
    turned = world.attach(planned, Role.ROLE_PREFILL)
    world.deliver()
    world.finish()
    assert sink.tokens(0) == [300, 301, 302]
    assert turned.given == {}
    world.assert_nothing_is_left()
