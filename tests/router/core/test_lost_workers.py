"""Workers that fall silent, break off, drain or can't be written to, and what becomes of their requests."""

from __future__ import annotations

import asyncio
import logging

import grpc.aio
import pytest

from segue.base.errors import Unavailable
from segue.client import SegueClient
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import (
    RequestOutput,
    Role,
    RouterFrame,
    WorkerState,
)
from segue.router.text.tokenizer import TextCodec
from tests.router.core.outputs import ticket_for
from tests.router.core.scripted import Router, running_router, until
from tests.router.core.scripted_answers import counting

PROMPT = [5, 6, 7, 8]


async def test_a_silent_worker_is_dropped_and_its_requests_fail(codec: TextCodec) -> None:
    async with running_router(codec, lease_s=0.4) as router, SegueClient(router.address) as client:
        _, decode = await router.attach_pair()
        decode.go.clear()
        running = asyncio.create_task(client.generate(PROMPT, max_tokens=4))
        await until(lambda: decode.submits)
        decode.keeps_lease = False
        with pytest.raises(Unavailable, match="decode worker decode-0 was lost"):
            await running
        await decode.ended()
        assert [link.worker_id for link in router.links] == ["prefill-0"]
        with pytest.raises(Unavailable, match="no decode worker is ready"):
            await client.generate(PROMPT, max_tokens=4)
        router.assert_idle()


async def test_what_ran_on_a_worker_that_breaks_off_goes_on_elsewhere(router: Router) -> None:
    async with SegueClient(router.address) as client:
        _, decode = await router.attach_pair()
        other = await router.attach("decode-1", Role.ROLE_DECODE)
        decode.go.clear()
        other.go.clear()
        running = [asyncio.create_task(client.generate([*PROMPT, number], max_tokens=4)) for number in range(4)]
        await until(lambda: len(decode.submits) == 2 and len(other.submits) == 2)
        decode.cut()
        other.go.set()
        answers = await asyncio.gather(*running)
        for number, answer in enumerate(answers):
            assert list(answer.token_ids) == counting([*PROMPT, number], SamplingParams(max_tokens=4))[:4]
        left = [worker.worker for answer in answers for worker in answer.timings.continuations]
        assert left == ["decode-0", "decode-0"]
        router.assert_idle()


async def test_tickets_for_a_lost_decode_worker_go_back_to_prefill(router: Router) -> None:
    async with SegueClient(router.address) as client:
        prefill, decode = await router.attach_pair()
        decode.go.clear()
        running = asyncio.create_task(client.generate(PROMPT, max_tokens=4))
        await until(lambda: decode.submits)
        decode.cut()
        with pytest.raises(Unavailable):
            await running
        await until(lambda: prefill.releases)
        assert [release.ticket_id for release in prefill.releases] == list(prefill.offered)


async def test_a_ticket_that_comes_after_the_cancel_goes_back(router: Router) -> None:
    prefill, _ = await router.attach_pair()
    prefill.go.clear()
    async with SegueClient(router.address) as client:
        running = asyncio.create_task(client.generate(PROMPT, max_tokens=4))
        await until(lambda: prefill.submits)
        running.cancel()
        await until(lambda: prefill.aborted_at_s)
    (submit,) = prefill.submits.values()
    offer = ticket_for(submit, prefill.register)
    prefill.say(RequestOutput(request_id=submit.request_id, token_ids=[300], offer=offer))
    await until(lambda: prefill.releases)
    assert prefill.releases[0].ticket_id == offer.ticket_id
    assert prefill.releases[0].producer_epoch == "epoch-1"


async def test_a_stream_whose_writing_fails_is_ended_and_its_requests_fail(
    router: Router, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with SegueClient(router.address) as client:
        _, decode = await router.attach_pair()
        link = router.links.get("decode-0")
        assert link is not None

        async def broken() -> RouterFrame:
            raise OSError("can't write")

        monkeypatch.setattr(link, "take", broken)
        link.abort("nobody")  # The frame that is being waited for is the last to go out the old way.
        await until(lambda: decode.aborted_at_s or router.links.get("decode-0") is None)
        with caplog.at_level(logging.ERROR):
            code, details = await decode.ended()
        assert code is grpc.StatusCode.UNKNOWN
        assert "can't write" in details
        await until(lambda: router.links.get("decode-0") is None)
        with pytest.raises(Unavailable, match="no decode worker is ready"):
            await client.generate(PROMPT, max_tokens=4)
        assert not [record for record in caplog.records if "never retrieved" in record.message]


async def test_a_draining_worker_gets_nothing_new_and_finishes_what_it_has(router: Router) -> None:
    async with SegueClient(router.address) as client:
        _, decode = await router.attach_pair()
        decode.go.clear()
        running = asyncio.create_task(client.generate(PROMPT, max_tokens=4))
        await until(lambda: decode.submits)
        decode.status.state = WorkerState.WORKER_STATE_DRAINING
        decode.outbox.put_status(decode.status)
        await until(lambda: not any(view.ready for view in router.links.snapshot().workers if view.role == 2))
        with pytest.raises(Unavailable, match="no decode worker is ready"):
            await client.generate(PROMPT, max_tokens=4)
        decode.go.set()
        assert len((await running).token_ids) == 4
