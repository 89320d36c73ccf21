"""How a worker drains: it waits for requests and offers, says how far it is, and leaves."""

from __future__ import annotations

import asyncio

from segue.proto.kv_transfer_pb2 import RenewRequest
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import (
    EngineFacts,
    Load,
    RequestError,
    RouterFrame,
)
from tests.worker.fakes import FakeProducer, eventually, prompt, tokens
from tests.worker.runtimes import DRAINING, LENGTH, READY, Worker, begun, taken


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
    async with asyncio.timeout(30):
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
    assert taken(worker.a).status.detail.startswith("draining: 2 requests, 1 offer left, ")
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
    async with asyncio.timeout(30):
        assert await draining


async def test_a_router_that_renews_does_not_keep_a_draining_worker_alive(
    worker: Worker, producer: FakeProducer
) -> None:
    worker.runtime.set_state(READY, "ready", EngineFacts(kv_address=producer.address))
    worker.engine.load_now = Load(held_offers=1)
    draining = asyncio.ensure_future(worker.runtime.drain(begun(0.1)))
    async with asyncio.timeout(30):
        while not draining.done():
            worker.runtime.on_frame(worker.a, RouterFrame(renew=[RenewRequest(ticket_ids=["kv-one"])]))
            await asyncio.sleep(0.01)
    assert not await draining


async def test_a_decode_worker_leaves_when_what_it_moved_has_been_fetched(decode_worker: Worker) -> None:
    decode_worker.engine.load_now = Load(held_offers=1)
    draining = asyncio.ensure_future(decode_worker.runtime.drain(begun(60.0)))
    await asyncio.sleep(0.01)
    assert not draining.done()
    decode_worker.engine.load_now = Load()
    async with asyncio.timeout(30):
        assert await draining


async def test_a_drain_of_an_engine_that_is_lost_ends_at_once(worker: Worker) -> None:
    worker.submit(worker.a, prompt("one"))
    draining = asyncio.ensure_future(worker.runtime.drain(begun(600.0)))
    await asyncio.sleep(0)
    worker.runtime.on_failure(RuntimeError("device lost"))
    async with asyncio.timeout(30):
        assert not await draining
