"""Whose tickets a runtime keeps, renews and gives back."""

from __future__ import annotations

import asyncio

from segue.proto.kv_transfer_pb2 import ReleaseRequest, RenewRequest
from segue.proto.worker_pb2 import (
    EngineFacts,
    Registered,
    RouterFrame,
)
from segue.worker.attachment import Attachment
from segue.worker.offered_tickets import ROUTER_GRACE_S
from tests.worker.fakes import FakeProducer, eventually, prompt, tokens
from tests.worker.runtimes import GREETING, LENGTH, READY, Worker, now_s


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
    # The answer to the renewal has told which ticket is gone.
    await eventually(lambda: producer.released and producer.renewed and not worker.releases._sending)
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
