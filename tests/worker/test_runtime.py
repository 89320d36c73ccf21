"""The runtime between a fake engine and attachments that are only looked into: requests, states, the prefix cache."""

from __future__ import annotations

import asyncio

import pytest

from segue.prefill_worker.role import PrefillRole
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import (
    KvEvent,
    KvEvents,
    Load,
    RequestError,
    RouterBacklog,
    RouterFrame,
    Submit,
    WorkerFrame,
    WorkerState,
)
from segue.worker.attachment import Attachment
from segue.worker.open_requests import DEADLINE_GRACE_S
from tests.worker.fakes import FakeProducer, eventually, ids_of, prompt, tokens
from tests.worker.runtimes import DRAINING, GREETING, LENGTH, Worker, now_s, taken


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


async def test_each_router_hears_of_the_others_backlogs_and_not_of_a_lost_ones(worker: Worker) -> None:
    worker.a.backlog, worker.b.backlog = RouterBacklog(router_id="a"), RouterBacklog(router_id="b")
    silent = worker.attach("router-c:1")
    told = {one: [backlog.router_id for backlog in worker.runtime.backlogs_beside(one)] for one in (worker.a, worker.b)}
    assert told == {worker.a: ["b"], worker.b: ["a"]}
    assert {backlog.router_id for backlog in worker.runtime.backlogs_beside(silent)} == {"a", "b"}
    worker.runtime.on_detached(worker.a)
    assert not worker.runtime.backlogs_beside(worker.b)


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


async def test_a_request_past_its_deadline_is_ended_here_when_the_router_does_not(worker: Worker) -> None:
    asked_s = now_s()
    worker.submit(worker.a, prompt("one", timeout_s=5.0), prompt("two", timeout_s=50.0), prompt("three"))
    worker.runtime.tick(asked_s + 5.0)
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
