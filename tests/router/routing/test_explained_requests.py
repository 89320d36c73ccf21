"""Routing by prefix, end to end over the wire, with scripted workers."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio

from segue.base.block_hash import block_hashes
from segue.cli.explain import decision_table
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.inference_pb2 import GenerateRequest, GenerateResponse, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import KvEvent, Load, Role
from segue.router.text.tokenizer import TextCodec
from tests.router.core.outputs import LAYOUT
from tests.router.core.scripted import Router, running_router, until

PROMPT = [7 + number % 1000 for number in range(3 * LAYOUT.block_tokens + 5)]


@pytest_asyncio.fixture
async def router() -> AsyncIterator[Router]:
    async with running_router(TextCodec.load(str(ensure_embedded_model()))) as running:
        yield running


async def generate(router: Router, *, explain: bool) -> list[GenerateResponse]:
    request = GenerateRequest(token_ids=TokenIds(ids=PROMPT), sampling=SamplingParams(max_tokens=5), explain=explain)
    async with grpc.aio.insecure_channel(router.address) as channel:
        return [response async for response in InferenceStub(channel).Generate(request, timeout=10)]


async def test_a_request_goes_where_its_prefix_is_and_says_why(router: Router) -> None:
    workers = [await router.attach(f"prefill-{number}", Role.ROLE_PREFILL) for number in range(3)]
    await router.attach("decode-0", Role.ROLE_DECODE)
    stored = KvEvent(stored=KvEvent.Stored(blocks=block_hashes(PROMPT, LAYOUT.block_tokens)))
    workers[1].outbox.start_kv_events(lambda: [stored])
    await until(lambda: router.dispatcher.around.placement.index.knows("prefill-1"))
    for _ in range(4):
        *_, last = await generate(router, explain=True)
        assert last.timings.prefill_worker == "prefill-1"
    by_id = {candidate.worker_id: candidate for candidate in last.decision.candidates}
    assert by_id["prefill-1"].cached_tokens == 3 * LAYOUT.block_tokens
    assert by_id["prefill-1"].chosen
    table = decision_table(last.decision)
    assert table.row_count == 4


async def test_nothing_is_explained_to_who_does_not_ask(router: Router) -> None:
    await router.attach_pair()
    *_, last = await generate(router, explain=False)
    assert not last.HasField("decision")


async def test_a_worker_whose_events_have_a_gap_is_asked_for_all_of_them(router: Router) -> None:
    prefill, _ = await router.attach_pair()
    names = block_hashes(PROMPT, LAYOUT.block_tokens)
    held = list(names)
    prefill.outbox.start_kv_events(lambda: [KvEvent(stored=KvEvent.Stored(blocks=held))])
    index = router.dispatcher.around.placement.index
    await until(lambda: index.overlaps(names))
    feed = prefill.outbox._kv
    assert feed is not None
    feed._sequence += 5
    prefill.outbox.put_kv_events([KvEvent(removed=KvEvent.Removed(blocks=names[2:]))])
    await until(lambda: prefill.resends)
    assert index.overlaps(names) == {}
    del held[2:]
    feed.restart()
    prefill.outbox.put_load(Load())
    await until(lambda: index.overlaps(names) == {"prefill-0": 2})


pytestmark = pytest.mark.timeout(60)
