"""The dispatcher: nothing is lost, leaked or answered twice."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.base.errors import DeadlineExceeded, Overloaded, Unavailable
from segue.proto.inference_pb2 import Path
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import Role
from segue.router.service import Generation
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import until
from tests.router.core.world import PROMPT, Sink, World, step


@pytest.fixture
def world(codec: TextCodec) -> World:
    return World(codec)


operations = st.lists(
    st.tuples(
        st.sampled_from(["start", "work", "work", "work", "work", "lose", "attach", "cancel", "expire"]),
        st.integers(0, 9),
        st.integers(1, 3),
    ),
    max_size=40,
)


@settings(max_examples=200, deadline=None)
@given(operations, st.sampled_from([0, 1, 2]))
def test_whatever_happens_every_request_ends_once_and_leaves_nothing(
    codec: TextCodec, steps: list[tuple[str, int, int]], places: int
) -> None:
    async def scenario() -> None:
        world = World(codec, places=places)
        for operation, choice, size in steps:
            step(world, operation, choice, size)
            await asyncio.sleep(0)
        await world.finish_all()
        assert not world.dispatcher.waiting
        world.assert_nothing_is_left()
        for sink, generation in world.sinks:
            whole = [300 + number for number in range(generation.sampling.max_tokens)]
            for index in range(generation.n):
                tokens = sink.tokens(index)
                assert tokens == whole[: len(tokens)]
                assert sink.errors or sink.given_up or tokens == whole

    asyncio.run(scenario())


async def test_the_last_response_and_only_it_has_usage_and_timings(world: World) -> None:
    sink = world.start(n=2, max_tokens=3)
    world.finish()
    assert [response.HasField("usage") for response in sink.responses[:-1]] == [False] * (len(sink.responses) - 1)
    last = sink.responses[-1]
    assert (last.usage.prompt_tokens, last.usage.output_tokens) == (4, 6)
    assert last.timings.path == Path.PATH_SEEDED
    assert {response.request_id for response in sink.responses} == {sink.handle.request_id}  # type: ignore[union-attr]


async def test_the_answers_of_one_request_are_spread_over_the_pool(world: World) -> None:
    world.start(n=2)
    world.deliver()
    assert [len(life.held) for life in world.lives if life.link.register.role == Role.ROLE_PREFILL] == [1, 1]


async def test_prefill_is_not_charged_for_what_decode_does(world: World) -> None:
    world.start(max_tokens=9)
    world.deliver()
    (prefill,) = (life for life in world.lives if life.held)
    assert prefill.link.assigned_tokens == len(PROMPT)
    world.work(prefill, next(iter(prefill.held)))
    assert (prefill.link.assigned_requests, prefill.link.assigned_tokens) == (0, 0)
    assert sum(life.link.assigned_requests for life in world.lives) == 1
    world.finish()
    world.assert_nothing_is_left()


async def test_a_request_planned_on_an_earlier_life_is_not_taken_off_the_next_ones_load(world: World) -> None:
    for worker_id in ("prefill-1", "decode-1"):
        world.lose(worker_id)
    first = world.start()
    again = world.attach("decode-0", Role.ROLE_DECODE)  # First is still with prefill and goes on.
    world.start()
    first.give_up()
    assert again.link.assigned_requests == 1
    world.finish()
    world.assert_nothing_is_left()


async def test_a_decode_worker_lost_before_the_claim_strands_no_ticket_of_any_choice(world: World) -> None:
    for worker_id in ("prefill-1", "decode-1"):
        world.lose(worker_id)
    sink = world.start(n=3)
    world.deliver()
    (prefill,) = (life for life in world.lives if life.held)
    for request_id in list(prefill.held):
        world.work(prefill, request_id)
    world.lose("decode-0")
    world.deliver()
    assert len(sink.errors) == 1
    assert sorted(prefill.released) == sorted(prefill.offered)
    assert len(prefill.offered) == 3


async def test_a_reader_that_gives_up_on_token_1_leaves_decode_nothing_to_hold(world: World) -> None:
    world.start(max_tokens=5, patience=1)
    world.finish()
    world.assert_nothing_is_left()
    assert sum(len(life.aborted) for life in world.lives) == 1


async def test_a_refused_request_leaves_no_timer_behind(codec: TextCodec) -> None:
    world = World(codec)
    for worker_id in ("decode-0", "decode-1"):
        world.lose(worker_id)
    sink = Sink()
    alive = weakref.ref(sink)
    generation = Generation("tiny", PROMPT, None, SamplingParams(max_tokens=2), 1, False, None, 600.0)
    with pytest.raises(Unavailable):
        world.dispatcher.start(generation, sink)
    del sink
    gc.collect()
    assert alive() is None
    assert world.dispatcher.running_requests == 0


async def test_beyond_its_limit_a_request_is_refused_with_the_limit(codec: TextCodec) -> None:
    world = World(codec, max_concurrent_requests=2)
    first, _ = world.start(), world.start()
    with pytest.raises(Overloaded, match="2 requests are running"):
        world.start()
    first.give_up()
    world.start()
    world.finish()
    world.assert_nothing_is_left()


async def test_a_deadline_ends_the_request_and_tells_the_workers(world: World) -> None:
    sink = Sink()
    generation = Generation("tiny", PROMPT, None, SamplingParams(max_tokens=2), 1, False, None, 0.05)
    sink.handle = world.dispatcher.start(generation, sink)
    await until(lambda: sink.over)
    assert isinstance(sink.errors[0], DeadlineExceeded)
    world.deliver()
    assert [request_id for life in world.lives for request_id in life.aborted] == [f"{sink.handle.request_id}-0.1"]


async def test_drain_waits_for_what_runs_and_refuses_the_rest(world: World) -> None:
    sink = world.start()
    draining = asyncio.create_task(world.dispatcher.drain(5.0))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="shutting down"):
        world.start()
    assert not draining.done()
    world.finish()
    await draining
    assert not sink.errors


async def test_drain_ends_what_does_not_finish_in_time(world: World) -> None:
    sink = world.start()
    await world.dispatcher.drain(0.0)
    assert isinstance(sink.errors[0], Unavailable)
    world.deliver()
    world.assert_nothing_is_left()


@pytest.mark.parametrize("prepare", [lambda world: world.lose("prefill-0"), lambda world: world.lose("decode-0")])
async def test_losing_an_idle_worker_is_nobodys_business(world: World, prepare: Callable[[World], None]) -> None:
    prepare(world)
    sink = world.start()
    world.finish()
    assert sink.tokens(0) == [300, 301, 302]
    world.assert_nothing_is_left()
