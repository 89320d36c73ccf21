from __future__ import annotations

import asyncio

from segue.proto.worker_pb2 import Load, Status, WorkerFrame, WorkerState
from segue.worker.outbox import Outbox
from tests.worker.fakes import tokens


async def test_what_piles_up_goes_out_as_one_frame() -> None:
    outbox = Outbox()
    outbox.put_outputs([tokens("a", 1), tokens("b", 2)])
    outbox.put_load(Load(running_requests=2))
    outbox.put_outputs([tokens("a", 3)])
    outbox.put_load(Load(running_requests=1, free_blocks=9))
    outbox.put_status(Status(state=WorkerState.WORKER_STATE_READY))
    outbox.put_status(Status(state=WorkerState.WORKER_STATE_DRAINING))
    assert await outbox.take() == WorkerFrame(
        outputs=[tokens("a", 1), tokens("b", 2), tokens("a", 3)],
        load=Load(running_requests=1, free_blocks=9),
        status=Status(state=WorkerState.WORKER_STATE_DRAINING),
    )


async def test_a_newer_load_leaves_nothing_of_the_older() -> None:
    outbox = Outbox()
    outbox.put_load(Load(running_requests=5, waiting_tokens=7))
    outbox.put_load(Load())
    frame = await outbox.take()
    assert frame.HasField("load")
    assert frame.load == Load()


async def test_take_waits_until_there_is_something_and_gives_it_once() -> None:
    outbox = Outbox()
    taking = asyncio.ensure_future(outbox.take())
    await asyncio.sleep(0)
    assert not taking.done()
    outbox.put_outputs([tokens("a", 1)])
    assert (await taking).outputs == [tokens("a", 1)]
    again = asyncio.ensure_future(outbox.take())
    await asyncio.sleep(0)
    assert not again.done()
    again.cancel()


async def test_flushed_means_written_not_taken() -> None:
    outbox = Outbox()
    await outbox.flushed()
    outbox.put_outputs([tokens("a", 1)])
    await outbox.take()
    flushed = asyncio.ensure_future(outbox.flushed())
    await asyncio.sleep(0)
    assert not flushed.done()
    outbox.put_outputs([tokens("b", 1)])
    outbox.mark_sent()  # Of the first frame; the second waits.
    await asyncio.sleep(0)
    assert not flushed.done()
    await outbox.take()
    outbox.mark_sent()
    await flushed
