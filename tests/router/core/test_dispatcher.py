"""The dispatcher between sinks and workers' links, without a wire: nothing is lost, leaked or answered twice."""

from __future__ import annotations

import asyncio
import gc
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.base.errors import DeadlineExceeded, Overloaded, SegueError, Unavailable
from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse, Path
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
from segue.proto.worker_pb2 import Register, RequestOutput, Role, RouterFrame, Status, Submit, WorkerState
from segue.router.admission import Admission
from segue.router.continuation import ContinuationPolicy
from segue.router.dispatcher import Dispatcher
from segue.router.models import Models
from segue.router.service import Generation, Handle
from segue.router.slo import BATCH, SloClass, SloClasses
from segue.router.text.tokenizer import TextCodec
from segue.router.worker_links import WorkerLink, WorkerLinks
from tests.router.core.scripted import FACTS, until

LENGTH = FinishReason.FINISH_REASON_LENGTH
PROMPT = (5, 6, 7, 8)
# Of workers that are never measured, predictions say nothing.
ADMISSION = Admission(1e6, SloClasses([SloClass("chat", ttft_s=1e6), BATCH]))


class Sink:
    """Remembers what it was told; gives up after ``patience`` responses, from inside the call."""

    def __init__(self, patience: int = 1 << 30) -> None:
        self.responses: list[GenerateResponse] = []
        self.errors: list[SegueError] = []
        self.handle: Handle | None = None
        self.given_up = False
        self._patience = patience

    def on_token(self, index: int, text: str, token_id: int) -> None:
        self.on_delta(GenerateResponse(choices=[ChoiceDelta(index=index, text=text, token_ids=[token_id])]))

    def on_delta(self, response: GenerateResponse) -> None:
        assert not self.over
        self.responses.append(response)
        if len(self.responses) >= self._patience and self.handle is not None and not self.over:
            self.give_up()

    def on_error(self, error: SegueError) -> None:
        assert not self.over
        self.errors.append(error)

    def give_up(self) -> None:
        assert self.handle is not None
        if not self.over:
            self.given_up = True
            self.handle.cancel()

    @property
    def over(self) -> bool:
        finished = bool(self.responses) and self.responses[-1].HasField("usage")
        return finished or bool(self.errors) or self.given_up

    def tokens(self, index: int) -> list[int]:
        choices = [choice for response in self.responses for choice in response.choices if choice.index == index]
        return [token for choice in choices for token in choice.token_ids]


@dataclass
class FakeWorker:
    """One life of one worker: what it was sent, and what it may still hold."""

    link: WorkerLink
    alive: bool = True
    held: dict[str, Submit] = field(default_factory=dict)
    given: dict[str, int] = field(default_factory=dict)
    offered: set[str] = field(default_factory=set)
    aborted: list[str] = field(default_factory=list)
    released: list[str] = field(default_factory=list)
    renewed: list[str] = field(default_factory=list)
    asked_to_move: list[str] = field(default_factory=list)


class World:
    """A dispatcher with two workers in each pool; ``places`` in a step of each decode worker, 0: any number."""

    def __init__(self, codec: TextCodec, max_concurrent_requests: int = 100, places: int = 0) -> None:
        self.places = places
        self.links = WorkerLinks()
        models = Models("tiny", codec, created_unix_s=7)
        # No patience: looking again would need the clock.
        policy = ContinuationPolicy(max_continuations=5, patience_s=0.0)
        self.dispatcher = Dispatcher(self.links, models.__getitem__, max_concurrent_requests, policy, ADMISSION)
        self.lives: list[FakeWorker] = []
        self.claimable: set[str] = set()
        self.sinks: list[tuple[Sink, Generation]] = []
        for number in range(2):
            self.attach(f"prefill-{number}", Role.ROLE_PREFILL)
            self.attach(f"decode-{number}", Role.ROLE_DECODE)

    def attach(self, worker_id: str, role: Role) -> FakeWorker:
        self.lose(worker_id)
        link = WorkerLink(Register(worker_id=worker_id, epoch=f"epoch-{len(self.lives)}", role=role))
        link.status = Status(state=WorkerState.WORKER_STATE_READY, facts=FACTS)
        link.status.facts.max_running_requests = self.places
        self.links.add(link)
        self.lives.append(FakeWorker(link))
        return self.lives[-1]

    def lose(self, worker_id: str) -> None:
        known = self.links.get(worker_id)
        if known is not None and self.links.remove(known):
            next(life for life in self.lives if life.link is known).alive = False
            self.dispatcher.news.on_worker_lost(known)

    def start(
        self,
        n: int = 1,
        max_tokens: int = 3,
        *,
        patience: int = 1 << 30,
        slo_class: str = "",
        timeout_s: float = 60.0,
        **sampling: Any,
    ) -> Sink:
        sink = Sink(patience)
        params = SamplingParams(max_tokens=max_tokens, **sampling)
        generation = Generation("tiny", PROMPT, None, params, n, False, None, timeout_s, slo_class, tenant="alice")
        sink.handle = self.dispatcher.start(generation, sink)
        self.sinks.append((sink, generation))
        return sink

    def deliver(self) -> None:
        """Bring each living worker what was sent to it."""
        for life in self.lives:
            if not life.alive:
                continue
            frame, life.link._frame = life.link._frame, RouterFrame()
            for submit in frame.submit:
                life.held[submit.request_id] = submit
                life.given[submit.request_id] = 0
                if submit.HasField("ticket"):
                    self.claimable.add(submit.ticket.ticket_id)
            for request_id in frame.abort_request_ids:
                life.held.pop(request_id, None)
                life.aborted.append(request_id)
            life.released += [release.ticket_id for release in frame.release]
            life.renewed += [name for renew in frame.renew for name in renew.ticket_ids]
            life.asked_to_move += frame.move_request_ids

    def work(self, life: FakeWorker, request_id: str, tokens: int = 1) -> None:
        """The worker's next output for a request."""
        submit = life.held[request_id]
        begun = life.given[request_id]
        offset = len(submit.input_token_ids) - len(PROMPT)
        count = min(tokens, submit.sampling.max_tokens - begun)
        ids = [300 + offset + begun + step for step in range(count)]
        life.given[request_id] = begun + count
        only_kv = submit.offer_kv and offset == 0 and submit.sampling.ignore_eos
        output = RequestOutput(request_id=request_id, token_ids=[7] if only_kv else ids)
        if begun + count == submit.sampling.max_tokens:
            output.finish_reason = LENGTH
            del life.held[request_id]
            if submit.offer_kv:
                worker_id = life.link.worker_id
                ticket = Ticket(
                    ticket_id=f"kv-{request_id}",
                    tokens=len(submit.input_token_ids),
                    producer_id=worker_id,
                    producer_epoch=life.link.register.epoch,
                    lease_s=30,
                )
                output.offer.CopyFrom(ticket)
                life.offered.add(f"kv-{request_id}")
        self.dispatcher.news.on_outputs(life.link, [output])

    def _under_way(self) -> set[str]:
        """Tickets sent to workers that were lost before they got them: their leases must run out."""
        return {submit.ticket.ticket_id for life in self.lives if not life.alive for submit in life.link._frame.submit}

    def finish(self) -> None:
        """Let everything run to its end."""
        self.deliver()
        while busy := [(life, request_id) for life in self.lives if life.alive for request_id in life.held]:
            self.work(*busy[0])
            self.deliver()

    async def finish_all(self) -> None:
        """Those that wait for a worker, too."""
        self.finish()
        while self.dispatcher.running_requests:
            self.dispatcher.waiting.look_soon()
            await asyncio.sleep(0)
            self.finish()

    def assert_nothing_is_left(self) -> None:
        assert all(sink.over for sink, _ in self.sinks)
        assert self.dispatcher.running_requests == 0
        assert not len(self.dispatcher.conductor)
        for life in self.lives:
            assert (life.link.assigned_requests, life.link.assigned_tokens) == (0, 0), life.link.worker_id
            if not life.alive:
                continue
            assert not life.held
            stranded = life.offered - set(life.released) - self.claimable - self._under_way()
            assert not stranded, "a ticket that nobody will claim was not released"


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


def step(world: World, operation: str, choice: int, size: int) -> None:
    worker_id = ("prefill-0", "decode-0", "prefill-1", "decode-1")[choice % 4]
    match operation:
        case "start":
            try:
                seed: dict[str, Any] = {"seed": 3} if choice % 3 == 0 else {}
                world.start(size, 1 + choice % 4, patience=2 if choice == 9 else 1 << 30, **seed)
            except Unavailable:
                assert Role.ROLE_DECODE not in {life.link.register.role for life in world.lives if life.alive}
        case "work":
            world.deliver()
            busy = [(life, request_id) for life in world.lives if life.alive for request_id in life.held]
            if busy:
                world.work(*busy[choice % len(busy)], tokens=size)
        case "lose":
            world.lose(worker_id)
        case "attach":
            world.attach(worker_id, Role.ROLE_PREFILL if worker_id.startswith("prefill") else Role.ROLE_DECODE)
        case "cancel" | "expire" if world.sinks:
            sink, _ = world.sinks[choice % len(world.sinks)]
            if operation == "cancel":
                sink.give_up()
            elif not sink.over:
                world.dispatcher.expire(sink.handle)  # type: ignore[arg-type]


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
