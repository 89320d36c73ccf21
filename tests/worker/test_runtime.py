"""The runtime between a fake engine and attachments that are only looked into."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from segue.decode_worker.role import DecodeRole
from segue.prefill_worker.role import PrefillRole
from segue.proto.kv_transfer_pb2 import ReleaseRequest, RenewRequest, Ticket
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import (
    EngineFacts,
    KvEvent,
    KvEvents,
    Load,
    Registered,
    RequestError,
    RequestOutput,
    RouterFrame,
    Submit,
    WorkerFrame,
    WorkerState,
)
from segue.worker.attachment import Attachment
from segue.worker.drain import DrainClock
from segue.worker.offered_tickets import ROUTER_GRACE_S
from segue.worker.open_requests import DEADLINE_GRACE_S
from segue.worker.releases import Releases
from segue.worker.role import WorkerRole
from segue.worker.runtime import WorkerRuntime
from tests.worker.fakes import REGISTER, FakeEngine, FakeProducer, eventually, ids_of, prompt, tokens

READY, DRAINING = WorkerState.WORKER_STATE_READY, WorkerState.WORKER_STATE_DRAINING
LENGTH = FinishReason.FINISH_REASON_LENGTH
GREETING = RouterFrame(registered=Registered(router_id="r-0"))


class Worker:
    """A runtime with what stands around it."""

    def __init__(self, tasks: asyncio.TaskGroup, role: WorkerRole) -> None:
        self.engine = FakeEngine()
        self.releases = Releases(tasks)
        self.runtime = WorkerRuntime(role, REGISTER, self.engine, self.releases)
        self.a, self.b = self.attach("router-a:1"), self.attach("router-b:1")

    def attach(self, address: str) -> Attachment:
        attachment = Attachment(address, self.runtime)
        self.runtime.on_frame(attachment, GREETING)
        return attachment

    def ready(self) -> Worker:
        self.runtime.set_state(READY, "ready", EngineFacts(model="m"))
        return self

    def submit(self, attachment: Attachment, *submits: Submit) -> None:
        self.runtime.on_frame(attachment, RouterFrame(submit=submits))

    def step(self, *outputs: RequestOutput) -> None:
        self.runtime.on_step(outputs, self.engine.load_now)


def taken(attachment: Attachment) -> WorkerFrame:
    frame, attachment.outbox._frame = attachment.outbox._frame, WorkerFrame()
    return frame


def begun(timeout_s: float) -> DrainClock:
    clock = DrainClock(timeout_s)
    clock.begin(0.0, asyncio.get_running_loop().time())
    return clock


def now_s() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.TaskGroup() as group:
        yield group


@pytest.fixture
async def worker(tasks: asyncio.TaskGroup) -> AsyncIterator[Worker]:
    made = Worker(tasks, PrefillRole())
    async with made.releases:
        yield made.ready()


@pytest.fixture
async def decode_worker(tasks: asyncio.TaskGroup) -> AsyncIterator[Worker]:
    made = Worker(tasks, DecodeRole())
    async with made.releases:
        yield made.ready()


@pytest.fixture
async def producer() -> AsyncIterator[FakeProducer]:
    async with FakeProducer() as made:
        yield made


async def test_outputs_go_to_the_router_that_asked(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one"))
    worker.submit(worker.b, prompt("two"))
    worker.engine.load_now = Load(running_requests=2)
    taken(worker.a), taken(worker.b)
    worker.step(tokens("one", 1), tokens("two", 2))
    worker.step(tokens("one", 3))
    assert taken(worker.a) == WorkerFrame(outputs=[tokens("one", 1), tokens("one", 3)], load=worker.engine.load_now)
    assert taken(worker.b) == WorkerFrame(outputs=[tokens("two", 2)], load=worker.engine.load_now)


async def test_a_finished_request_is_no_longer_open(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one"))
    assert worker.runtime.open_requests == 1
    worker.step(tokens("one", 1, finish=LENGTH))
    assert worker.runtime.open_requests == 0
    worker.submit(worker.a, prompt("one"))
    assert [submit.request_id for submit in worker.engine.submits] == ["one", "one"]


async def test_abort_reaches_the_engine_once_and_only_for_open_requests(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one"))
    for _ in range(2):
        worker.runtime.on_frame(worker.a, RouterFrame(abort_request_ids=["one", "unknown"]))
    assert worker.engine.aborted == ["one"]
    taken(worker.a)
    worker.step(tokens("one", 1))
    assert not taken(worker.a).outputs


async def test_detaching_aborts_the_requests_of_that_router_alone(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one"), prompt("two"))
    worker.submit(worker.b, prompt("three"))
    worker.runtime.on_detached(worker.a)
    assert sorted(worker.engine.aborted) == ["one", "two"]
    worker.step(tokens("three", 1))
    assert ids_of(taken(worker.b).outputs) == ["three"]


async def test_a_ticket_that_comes_after_its_router_is_gone_is_given_back(
    worker: Worker, producer: FakeProducer
) -> None:
    worker.submit(worker.a, prompt("one", offer_kv=True), prompt("two", offer_kv=True))
    worker.runtime.on_frame(worker.a, RouterFrame(abort_request_ids=["two"]))
    worker.runtime.on_detached(worker.a)
    for name in ("one", "two"):
        output = tokens(name, 1, finish=LENGTH)
        output.offer.CopyFrom(producer.ticket(name))
        worker.step(output)
    await eventually(lambda: len(producer.released) == 2)
    assert {release.ticket_id for release in producer.released} == {"kv-one", "kv-two"}
    assert {release.reason for release in producer.released} == {"cancelled"}
    assert {release.producer_epoch for release in producer.released} == {"epoch-1"}


async def test_a_release_from_the_router_goes_to_the_engine_that_holds_the_blocks(
    worker: Worker, producer: FakeProducer
) -> None:
    worker.runtime.set_state(READY, "ready", EngineFacts(kv_address=producer.address))
    release = ReleaseRequest(ticket_id="kv-x", producer_epoch="epoch-1", reason="finished")
    worker.runtime.on_frame(worker.a, RouterFrame(release=[release]))
    await eventually(lambda: producer.released == [release])


async def test_a_renewal_from_the_router_goes_to_the_engine_that_holds_the_blocks(
    worker: Worker, producer: FakeProducer
) -> None:
    worker.runtime.set_state(READY, "ready", EngineFacts(kv_address=producer.address))
    renew = RenewRequest(ticket_ids=["kv-x", "kv-y"], producer_epoch="epoch-1", lease_s=7)
    worker.runtime.on_frame(worker.a, RouterFrame(renew=[renew]))
    await eventually(lambda: producer.renewed == [renew])


async def test_a_renewal_that_nobody_takes_is_left_to_the_lease(worker: Worker) -> None:
    worker.runtime.set_state(READY, "ready", EngineFacts(kv_address="127.0.0.1:1"))
    worker.runtime.on_frame(worker.a, RouterFrame(renew=[RenewRequest(ticket_ids=["kv-x"])]))


async def test_a_release_that_nobody_takes_is_left_to_the_lease(worker: Worker) -> None:
    """It must not take the worker down: the task group would."""
    worker.runtime.set_state(READY, "ready", EngineFacts(kv_address="127.0.0.1:1"))
    worker.runtime.on_frame(worker.a, RouterFrame(release=[ReleaseRequest(ticket_id="kv-x")]))


@pytest.mark.parametrize("state", [WorkerState.WORKER_STATE_LOADING, WorkerState.WORKER_STATE_WARMING, DRAINING])
async def test_a_worker_that_is_not_ready_refuses_and_gives_the_ticket_back(
    decode_worker: Worker, producer: FakeProducer, state: WorkerState
) -> None:
    decode_worker.runtime.set_state(state, "not now")
    decode_worker.submit(decode_worker.a, prompt("one", ticket=producer.ticket("one")))
    assert decode_worker.engine.submits == []
    (output,) = taken(decode_worker.a).outputs
    assert output.finish_reason == FinishReason.FINISH_REASON_ERROR
    assert output.error.kind == RequestError.KIND_UNAVAILABLE
    assert output.error.message == f"worker w-0 is {WorkerState.Name(state)}"
    await eventually(lambda: [release.reason for release in producer.released] == ["refused"])


@pytest.mark.parametrize(
    ("submit", "words"),
    [
        (prompt("one", ticket=Ticket(ticket_id="kv-one")), "claims no tickets"),
        (Submit(request_id="one"), "samples one token, 0 were asked for"),
    ],
)
async def test_a_leg_for_the_other_role_is_refused(
    worker: Worker, producer: FakeProducer, submit: Submit, words: str
) -> None:
    worker.submit(worker.a, submit)
    (output,) = taken(worker.a).outputs
    assert words in output.error.message
    assert worker.engine.submits == []


async def test_a_decode_worker_offers_nothing(decode_worker: Worker) -> None:
    decode_worker.submit(decode_worker.a, prompt("one", offer_kv=True))
    assert "offers no KV cache" in taken(decode_worker.a).outputs[0].error.message


async def test_a_request_id_in_use_is_refused_and_the_first_goes_on(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one"))
    worker.submit(worker.b, prompt("one"))
    (refused,) = taken(worker.b).outputs
    assert "in use" in refused.error.message
    worker.step(tokens("one", 1))
    assert ids_of(taken(worker.a).outputs) == ["one"]
    assert len(worker.engine.submits) == 1


async def test_every_attached_router_is_told_of_a_new_state(worker: Worker) -> None:
    worker.runtime.set_state(DRAINING, "bye")
    for attachment in (worker.a, worker.b):
        status = taken(attachment).status
        assert (status.state, status.detail, status.facts.model) == (DRAINING, "bye", "m")


async def test_a_state_that_changes_while_a_router_answers_the_registration_is_told(worker: Worker) -> None:
    """The first frame carries the state as it was when dialling; the router would wait for ready for ever."""
    dialling = Attachment("router-c:1", worker.runtime)
    worker.runtime.set_state(DRAINING, "bye")
    worker.runtime.on_frame(dialling, GREETING)
    assert taken(dialling).status.state == DRAINING


async def test_drain_waits_for_requests_and_offers(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one"))
    worker.engine.load_now = Load(running_requests=1)
    draining = asyncio.ensure_future(worker.runtime.drain(begun(60.0)))
    await asyncio.sleep(0)
    assert taken(worker.a).status.state == DRAINING
    worker.engine.load_now = Load(held_offers=1)
    worker.step(tokens("one", 1, finish=LENGTH))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert not draining.done()
    worker.engine.load_now = Load()
    worker.step()
    assert await draining


async def test_an_abort_may_be_what_ends_a_drain(decode_worker: Worker) -> None:
    worker = decode_worker
    worker.submit(worker.a, prompt("one"))
    draining = asyncio.ensure_future(worker.runtime.drain(begun(60.0)))
    await asyncio.sleep(0)
    worker.runtime.on_frame(worker.a, RouterFrame(abort_request_ids=["one"]))
    async with asyncio.timeout(5):
        assert await draining


async def test_a_drain_that_takes_too_long_says_so_and_gives_the_requests_back(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one"))
    assert not await worker.runtime.drain(begun(0.01))
    assert worker.engine.aborted == ["one"]
    (output,) = taken(worker.a).outputs
    assert output.finish_reason == FinishReason.FINISH_REASON_ERROR
    assert output.error == RequestError(
        kind=RequestError.KIND_UNAVAILABLE, message="worker w-0 has drained; its time was up"
    )
    assert worker.runtime.open_requests == 0


async def test_a_drain_tells_how_far_it_is(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one"), prompt("two"))
    worker.engine.load_now = Load(held_offers=1)
    draining = asyncio.ensure_future(worker.runtime.drain(begun(60.0)))
    await asyncio.sleep(0)
    assert taken(worker.a).status.detail == "draining: 2 requests, 1 offer left, 60 s"
    worker.engine.load_now = Load(held_offers=2)
    worker.step(tokens("one", 1, finish=LENGTH))
    await eventually(lambda: worker.runtime.status.detail.startswith("draining: 1 request, 2 offers left, "))
    status = taken(worker.a).status
    assert (status.state, status.facts.model) == (DRAINING, "m"), "a router compares the facts of each status"
    draining.cancel()


async def test_an_offer_that_ends_without_a_step_ends_the_drain(worker: Worker) -> None:
    """Engines in other processes say nothing then."""
    worker.engine.load_now = Load(held_offers=1)
    draining = asyncio.ensure_future(worker.runtime.drain(begun(60.0)))
    await asyncio.sleep(0)
    worker.engine.load_now = Load()
    async with asyncio.timeout(5):
        assert await draining


async def test_a_router_that_renews_does_not_keep_a_draining_worker_alive(
    worker: Worker, producer: FakeProducer
) -> None:
    worker.runtime.set_state(READY, "ready", EngineFacts(kv_address=producer.address))
    worker.engine.load_now = Load(held_offers=1)
    draining = asyncio.ensure_future(worker.runtime.drain(begun(0.1)))
    async with asyncio.timeout(5):
        while not draining.done():
            worker.runtime.on_frame(worker.a, RouterFrame(renew=[RenewRequest(ticket_ids=["kv-one"])]))
            await asyncio.sleep(0.01)
    assert not await draining


async def test_a_request_past_its_deadline_is_ended_here_when_the_router_does_not(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one", timeout_s=5.0), prompt("two", timeout_s=50.0), prompt("three"))
    worker.runtime.tick(now_s() + 5.0)
    assert worker.engine.aborted == [], "the router's own deadline speaks first"
    worker.runtime.tick(now_s() + 5.0 + DEADLINE_GRACE_S)
    assert worker.engine.aborted == ["one"]
    (output,) = taken(worker.a).outputs
    assert (output.request_id, output.finish_reason) == ("one", FinishReason.FINISH_REASON_ERROR)
    assert output.error.kind == RequestError.KIND_DEADLINE
    worker.step(tokens("one", 1, finish=LENGTH), tokens("two", 2))
    assert ids_of(taken(worker.a).outputs) == ["two"]
    worker.runtime.tick(now_s() + 10**6)
    assert worker.engine.aborted == ["one", "two"], "a leg without a deadline has none"


async def test_the_clock_is_looked_at_without_being_told(worker: Worker) -> None:
    watching = asyncio.ensure_future(worker.runtime.watch())
    worker.submit(worker.a, prompt("one", timeout_s=0.01))
    await eventually(lambda: worker.engine.aborted == ["one"])
    watching.cancel()


async def test_a_request_that_is_to_move_stays_open_until_the_engine_answers(
    decode_worker: Worker, producer: FakeProducer
) -> None:
    worker = decode_worker
    worker.submit(worker.a, prompt("one"), prompt("two"))
    worker.runtime.on_frame(worker.a, RouterFrame(move_request_ids=["one", "unknown"]))
    assert worker.engine.moved == ["one"]
    assert worker.runtime.open_requests == 2
    taken(worker.a)
    last = tokens("one", finish=FinishReason.FINISH_REASON_ABORT)
    last.offer.CopyFrom(producer.ticket("one"))
    worker.step(tokens("one", 7), last)
    assert list(taken(worker.a).outputs) == [tokens("one", 7), last]
    assert worker.runtime.open_requests == 1


async def test_a_decode_worker_leaves_when_what_it_moved_has_been_fetched(decode_worker: Worker) -> None:
    decode_worker.engine.load_now = Load(held_offers=1)
    draining = asyncio.ensure_future(decode_worker.runtime.drain(begun(60.0)))
    await asyncio.sleep(0.01)
    assert not draining.done()
    decode_worker.engine.load_now = Load()
    async with asyncio.timeout(5):
        assert await draining


def offer(worker: Worker, attachment: Attachment, producer: FakeProducer, *names: str) -> None:
    """``attachment``'s requests of these names finish with a ticket each."""
    worker.runtime.set_state(READY, "ready", EngineFacts(kv_address=producer.address))
    for name in names:
        worker.submit(attachment, prompt(name, offer_kv=True))
        output = tokens(name, 1, finish=LENGTH)
        output.offer.CopyFrom(producer.ticket(name))
        worker.step(output)


async def test_the_tickets_of_a_router_that_is_lost_are_given_back_before_their_leases_end(
    worker: Worker, producer: FakeProducer
) -> None:
    offer(worker, worker.a, producer, "one", "two", "three")
    offer(worker, worker.b, producer, "four")
    worker.runtime.on_frame(worker.a, RouterFrame(release=[ReleaseRequest(ticket_id="kv-two", reason="finished")]))
    producer.gone.add("kv-three")
    worker.runtime.on_frame(worker.a, RouterFrame(renew=[RenewRequest(ticket_ids=["kv-one", "kv-three"])]))
    await eventually(lambda: producer.released and producer.renewed)
    await asyncio.sleep(0.05)
    worker.runtime.on_detached(worker.a)
    worker.runtime.tick(now_s() + ROUTER_GRACE_S)
    await eventually(lambda: len(producer.released) == 2)
    assert producer.released[1] == ReleaseRequest(ticket_id="kv-one", producer_epoch="epoch-1", reason="router lost")


async def test_a_router_that_was_away_for_a_moment_keeps_its_tickets(worker: Worker, producer: FakeProducer) -> None:
    offer(worker, worker.a, producer, "one")
    worker.runtime.on_detached(worker.a)
    worker.runtime.on_frame(worker.a, GREETING)
    worker.runtime.tick(now_s() + 5 * ROUTER_GRACE_S)
    await asyncio.sleep(0.05)
    assert producer.released == []


async def test_a_router_that_has_restarted_knows_no_tickets_so_they_are_given_back_at_once(
    worker: Worker, producer: FakeProducer
) -> None:
    offer(worker, worker.a, producer, "one")
    worker.runtime.on_detached(worker.a)
    worker.runtime.on_frame(worker.a, RouterFrame(registered=Registered(router_id="r-1")))
    await eventually(lambda: [release.ticket_id for release in producer.released] == ["kv-one"])


async def test_a_drain_of_an_engine_that_is_lost_ends_at_once(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one"))
    draining = asyncio.ensure_future(worker.runtime.drain(begun(600.0)))
    await asyncio.sleep(0)
    worker.runtime.on_failure(RuntimeError("device lost"))
    async with asyncio.timeout(5):
        assert not await draining


async def test_only_the_first_failure_counts(worker: Worker) -> None:
    first = RuntimeError("device lost")
    worker.runtime.on_failure(first)
    worker.runtime.on_failure(RuntimeError("and again"))
    assert worker.runtime.failure.result() is first


async def test_a_router_gets_the_whole_prefix_cache_first_and_again_when_it_asks() -> None:
    async with asyncio.TaskGroup() as tasks:
        worker = Worker(tasks, PrefillRole()).ready()
        await worker.a.outbox.take()
        stored = KvEvent(stored=KvEvent.Stored(blocks=[1, 2]))
        worker.runtime.on_kv_events([stored])
        worker.step()
        late = worker.attach("router-c:1")
        assert (await late.outbox.take()).kv_events == KvEvents(snapshot=True, events=[stored])
        assert (await worker.a.outbox.take()).kv_events == KvEvents(events=[stored])
        worker.runtime.on_frame(worker.a, RouterFrame(resend_kv_events=True))
        again = (await worker.a.outbox.take()).kv_events
        assert again == KvEvents(first_sequence=1, snapshot=True, events=[stored])
