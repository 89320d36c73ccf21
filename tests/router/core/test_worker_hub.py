"""Workers that attach over a real wire: who is let in, and who takes whose place."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest

from segue.base.versions import PROTOCOL
from segue.client import SegueClient
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import (
    EngineFacts,
    Register,
    Role,
    Submit,
    WorkerFrame,
    WorkerState,
)
from segue.proto.worker_pb2_grpc import WorkerHubStub
from segue.router.text.tokenizer import TextCodec
from segue.router.workers.link import WorkerLink
from tests.router.core.scripted import (
    FACTS,
    Refused,
    Router,
    ScriptedWorker,
    read,
    running_router,
    until,
)
from tests.router.core.scripted_answers import counting

PROMPT = [5, 6, 7, 8]


def facts(**changes: object) -> EngineFacts:
    changed = EngineFacts()
    changed.CopyFrom(FACTS)
    for name, value in changes.items():
        setattr(changed, name, value)
    return changed


@asynccontextmanager
async def attached(worker: ScriptedWorker) -> AsyncIterator[ScriptedWorker]:
    await worker.attach()
    try:
        yield worker
    finally:
        await worker.stop()


async def refusal(worker: ScriptedWorker) -> tuple[grpc.StatusCode, str]:
    """How the router ends the stream of a worker that it doesn't take."""
    worker.keeps_lease = False  # In grpc.aio a write that fails because the stream has ended hides why it ended.
    try:
        async with attached(worker):
            return await worker.ended()
    except Refused as refused:
        return refused.code, refused.details


async def test_a_worker_learns_who_the_router_is_and_how_long_it_waits(router: Router) -> None:
    worker = await router.attach("prefill-0", Role.ROLE_PREFILL)
    assert worker.lease_s == 5.0
    (view,) = router.links.snapshot().workers
    assert (view.worker_id, view.epoch, view.ready, view.facts) == ("prefill-0", "epoch-1", True, FACTS)


async def test_a_worker_that_fits_no_peer_is_refused_with_both_values(router: Router) -> None:
    await router.attach("prefill-0", Role.ROLE_PREFILL)
    misfit = ScriptedWorker(router.hub_address, "decode-0", Role.ROLE_DECODE, facts=facts(transport="nixl"))
    code, details = await refusal(misfit)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    for word in ("decode-0", "prefill-0", "transport", "'nixl'", "'grpc'"):
        assert word in details
    assert [link.worker_id for link in router.links] == ["prefill-0"]


async def test_a_worker_whose_engine_turns_out_not_to_fit_is_refused_then(router: Router) -> None:
    await router.attach("prefill-0", Role.ROLE_PREFILL)
    loading = WorkerState.WORKER_STATE_LOADING
    worker = ScriptedWorker(router.hub_address, "decode-0", Role.ROLE_DECODE, facts=EngineFacts(), state=loading)
    worker.keeps_lease = False  # A write that fails because the stream has ended hides, in grpc.aio, why it ended.
    async with attached(worker):
        worker.status.state = WorkerState.WORKER_STATE_READY
        worker.status.facts.CopyFrom(facts(max_model_len_tokens=99))
        worker.outbox.put_status(worker.status)
        code, details = await worker.ended()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "99" in details
    assert "4096" in details


async def test_a_worker_of_another_model_than_the_routers_is_refused(router: Router) -> None:
    worker = ScriptedWorker(router.hub_address, "prefill-0", Role.ROLE_PREFILL, facts=facts(vocab_size=32000))
    code, details = await refusal(worker)
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "32000" in details
    assert "2048" in details
    assert not list(router.links)


async def test_a_second_worker_of_the_same_id_is_refused_with_the_firsts_epoch(router: Router) -> None:
    first = await router.attach("prefill-0", Role.ROLE_PREFILL)
    second = ScriptedWorker(router.hub_address, "prefill-0", Role.ROLE_PREFILL, epoch="epoch-2")
    with pytest.raises(Refused) as caught:
        await second.attach()
    assert caught.value.code is grpc.StatusCode.ALREADY_EXISTS
    assert "'prefill-0'" in caught.value.details
    assert "epoch-1" in caught.value.details
    link = router.links.get("prefill-0")
    assert link is not None
    assert link.register.epoch == first.register.epoch


async def test_a_worker_that_turned_takes_its_own_place_in_its_new_role(router: Router) -> None:
    first = await router.attach("flex-0", Role.ROLE_PREFILL)
    first.cut()
    turned = ScriptedWorker(router.hub_address, "flex-0", Role.ROLE_DECODE)
    turned.register.flex, turned.register.turns = True, 1
    async with attached(turned):
        await until(lambda: [link.register.role for link in router.links] == [Role.ROLE_DECODE])
        # Its dialling of before the turn, that was on its way for long.
        late = ScriptedWorker(router.hub_address, "flex-0", Role.ROLE_PREFILL)
        with pytest.raises(Refused) as caught:
            await late.attach()
        assert caught.value.code is grpc.StatusCode.ALREADY_EXISTS
        assert "has turned 1 times; this stream is from before" in caught.value.details
        (view,) = router.links.snapshot().workers
        assert (view.role, view.flex, view.turns) == (Role.ROLE_DECODE, True, 1)


@pytest.mark.parametrize(
    ("frame", "code", "words"),
    [
        (WorkerFrame(), grpc.StatusCode.INVALID_ARGUMENT, "first frame must be Register"),
        (
            WorkerFrame(register=Register(worker_id="w", role=Role.ROLE_DECODE, protocol=99)),
            grpc.StatusCode.FAILED_PRECONDITION,
            "99",
        ),
        (
            WorkerFrame(register=Register(worker_id="", role=Role.ROLE_DECODE, protocol=PROTOCOL)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "worker_id",
        ),
        (
            WorkerFrame(register=Register(worker_id="w", protocol=PROTOCOL)),
            grpc.StatusCode.INVALID_ARGUMENT,
            "role",
        ),
    ],
)
async def test_a_first_frame_that_registers_nobody_is_refused(
    router: Router, frame: WorkerFrame, code: grpc.StatusCode, words: str
) -> None:
    async with grpc.aio.insecure_channel(router.hub_address) as channel:
        call = WorkerHubStub(channel).Attach()  # type: ignore[call-arg]
        await call.write(frame)
        while (answer := await read(call)) is not None:
            assert words in answer.refused.reason
        assert await call.code() is code
        assert words in await call.details()
    assert not list(router.links)


async def test_a_stream_that_never_registers_is_ended(codec: TextCodec) -> None:
    async with (
        running_router(codec, lease_s=0.2) as router,
        grpc.aio.insecure_channel(router.hub_address) as channel,
        asyncio.timeout(30),
    ):
        call = WorkerHubStub(channel).Attach()  # type: ignore[call-arg]
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert "0.2 s" in await call.details()


async def test_a_worker_that_attaches_again_replaces_its_older_stream(router: Router) -> None:
    async with SegueClient(router.address) as client:
        _, decode = await router.attach_pair()
        decode.go.clear()
        running = asyncio.create_task(client.generate(PROMPT, max_tokens=4))
        await until(lambda: decode.submits)
        decode.keeps_lease = False
        again = ScriptedWorker(router.hub_address, "decode-0", Role.ROLE_DECODE)
        async with attached(again):
            answer = await running
            assert list(answer.token_ids) == counting(PROMPT, SamplingParams(max_tokens=4))[:4]
            assert "decode-0 was lost" in answer.timings.continuations[0].reason
            code, details = await decode.ended()
            assert code is grpc.StatusCode.ABORTED
            assert "attached again" in details
            answer = await client.generate(PROMPT, max_tokens=4)
            assert len(answer.token_ids) == 4
            assert len(decode.submits) == 1
            assert len(again.submits) == 2
            link = router.links.get("decode-0")
            assert link is not None
            router.assert_idle()
        await until(lambda: router.links.get("decode-0") is None)


async def test_a_restarted_worker_takes_over_from_a_silent_earlier_life(codec: TextCodec) -> None:
    async with running_router(codec, lease_s=2.0) as router:
        first = await router.attach("prefill-0", Role.ROLE_PREFILL)
        first.keeps_lease = False
        link = router.links.get("prefill-0")
        assert link is not None
        link.heard_at_s -= 1.5  # Instead of waiting for so long.
        async with attached(ScriptedWorker(router.hub_address, "prefill-0", Role.ROLE_PREFILL, epoch="epoch-2")):
            now = router.links.get("prefill-0")
            assert now is not None
            assert now.register.epoch == "epoch-2"


async def test_a_worker_that_hangs_up_while_it_is_let_in_leaves_no_trace(router: Router) -> None:
    for _ in range(10):
        async with grpc.aio.insecure_channel(router.hub_address) as channel:
            call = WorkerHubStub(channel).Attach()  # type: ignore[call-arg]
            register = Register(worker_id="w", epoch="e", role=Role.ROLE_DECODE, protocol=PROTOCOL)
            await call.write(WorkerFrame(register=register))
            call.cancel()
    await until(lambda: not list(router.links))


async def test_what_comes_while_a_frame_is_written_goes_out_as_one() -> None:
    link = WorkerLink(Register(worker_id="w"))
    for number in range(100):
        link.abort(f"r{number}")
        link.submit(Submit(request_id=f"s{number}"))
    frame = await link.take()
    assert (len(frame.abort_request_ids), len(frame.submit)) == (100, 100)
    waiting = asyncio.create_task(link.take())
    await asyncio.sleep(0)
    assert not waiting.done()
    link.release(Ticket(ticket_id="kv-1", producer_epoch="e"), "cancelled")
    assert [release.ticket_id for release in (await waiting).release] == ["kv-1"]
