"""Requests that go from one simulated engine to another with their KV cache, and who keeps what when they don't."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from segue.engine.simulated.kv_peers import KvPeers
from segue.engine.simulated.tokens import expected_tokens
from segue.proto.kv_transfer_pb2 import ReleaseRequest
from segue.proto.kv_transfer_pb2_grpc import KvTransferStub
from segue.proto.sampling_pb2 import (
    FINISH_REASON_ABORT,
)
from tests.engine.simulated.listening import leg, running, until
from tests.security.mesh import Authority

PROMPT = [7 * place % 2000 for place in range(100)]
VOCAB = 2048


@pytest.mark.parametrize("same_process", [True, False])
async def test_a_hand_off_continues_the_answer_without_computing_the_prompt(model: str, same_process: bool) -> None:
    async with AsyncExitStack() as stack:
        peers = KvPeers("127.0.0.1") if same_process else None
        prefill, prefilled = await stack.enter_async_context(running(model, "prefill", "p", peers))
        decode, decoded = await stack.enter_async_context(running(model, "decode", "d", peers))
        prefill.submit(leg("one", PROMPT, offer_kv=True))
        offer = (await prefilled.end_of("one")).offer
        assert (offer.tokens, offer.blocks, offer.transport) == (100, 7, "simulated")
        assert prefill.load().held_offers == 1
        assert prefill.load().free_blocks == prefilled.facts.kv_blocks - 7
        decode.submit(leg("one", PROMPT + prefilled.tokens["one"], 9, ticket=offer))
        last = await decoded.end_of("one")
        assert prefilled.tokens["one"] + decoded.tokens["one"] == expected_tokens(PROMPT, 10, VOCAB)
        assert last.usage.transferred_tokens == 100
        assert last.usage.computed_tokens == 1
        assert last.transfer.bytes == 7 * offer.layout.block_bytes
        await until(lambda: prefill.load().free_blocks == prefilled.facts.kv_blocks)
        assert prefill.load().held_offers == 0
        assert decode.load().free_blocks == decoded.facts.kv_blocks
        # A second consumer finds the ticket used, and computes the prompt itself.
        decode.submit(leg("two", [*PROMPT[:50], 3, *PROMPT[51:]], 4, ticket=offer))
        last = await decoded.end_of("two")
        assert "single-use" in last.transfer.error
        assert last.usage.transferred_tokens == 0
        assert decoded.tokens["two"] == expected_tokens([*PROMPT[:50], 3, *PROMPT[51:]], 4, VOCAB)
        if peers is not None:
            await peers.close()


async def test_over_tls_a_ticket_is_for_consumers_of_the_mesh(model: str, tmp_path: Path) -> None:
    ours, strangers = Authority.make(tmp_path / "ours"), Authority.make(tmp_path / "strangers")
    async with AsyncExitStack() as stack:
        prefill, prefilled = await stack.enter_async_context(
            running(model, "prefill", "p", tls=ours.files("prefill", "p", "127.0.0.1"))
        )
        for name, authority, transferred in (("d", ours, 100), ("s", strangers, 0)):
            decode, decoded = await stack.enter_async_context(
                running(model, "decode", name, tls=authority.files("decode", name, "127.0.0.1"))
            )
            prefill.submit(leg(name, PROMPT, offer_kv=True))
            offer = (await prefilled.end_of(name)).offer
            decode.submit(leg(name, PROMPT + prefilled.tokens[name], 3, ticket=offer))
            last = await decoded.end_of(name)
            assert last.usage.transferred_tokens == transferred
            assert bool(last.transfer.error) is not bool(transferred)


async def test_kv_of_another_prompt_is_noticed_and_computed_again(model: str) -> None:
    """What a real consumer can't see: the tickets are swapped, all digests are right, and the KV is another's."""
    async with running(model, "prefill", "p") as (prefill, prefilled), running(model, name="d") as (decode, decoded):
        prefill.submit(leg("one", PROMPT, offer_kv=True))
        offer = (await prefilled.end_of("one")).offer
        other = list(reversed(PROMPT))
        decode.submit(leg("one", other, 5, ticket=offer))
        last = await decoded.end_of("one")
        assert last.transfer.corrupt
        assert decoded.tokens["one"] == expected_tokens(other, 5, VOCAB)
        await until(lambda: prefill.load().free_blocks == prefilled.facts.kv_blocks)


async def test_what_decode_has_cached_is_not_transferred(model: str) -> None:
    async with running(model, "prefill", "p") as (prefill, prefilled), running(model, name="d") as (decode, decoded):
        decode.submit(leg("before", PROMPT[:64], 2))
        await decoded.end_of("before")
        prefill.submit(leg("one", PROMPT, offer_kv=True))
        offer = (await prefilled.end_of("one")).offer
        decode.submit(leg("one", PROMPT + prefilled.tokens["one"], 3, ticket=offer))
        last = await decoded.end_of("one")
        assert last.transfer.bytes == 3 * offer.layout.block_bytes
        assert (last.usage.cached_tokens, last.usage.transferred_tokens) == (64, 36)


async def test_a_ticket_for_what_decode_has_anyway_is_given_back_at_once(model: str) -> None:
    async with (
        running(model, "prefill", "p", lease_s=500) as (prefill, prefilled),
        running(model, name="d") as (decode, decoded),
    ):
        decode.submit(leg("before", PROMPT[:97], 2))
        await decoded.end_of("before")
        prefill.submit(leg("one", PROMPT[:96], offer_kv=True))
        offer = (await prefilled.end_of("one")).offer
        decode.submit(leg("one", PROMPT[:97], 3, ticket=offer))
        assert (await decoded.end_of("one")).usage.cached_tokens == 96
        await until(lambda: not prefill.load().held_offers)


async def test_an_offer_that_nobody_claims_expires(model: str) -> None:
    async with running(model, "prefill", "p", lease_s=0.2) as (prefill, prefilled):
        prefill.submit(leg("one", PROMPT, offer_kv=True))
        await prefilled.end_of("one")
        await until(lambda: not prefill.load().held_offers)
        assert prefill.load().free_blocks == prefilled.facts.kv_blocks


async def test_a_ticket_that_is_given_back_over_the_wire_frees_the_blocks(model: str) -> None:
    from segue.base.tls_grpc import open_aio_channel

    async with running(model, "prefill", "p") as (prefill, prefilled):
        prefill.submit(leg("one", PROMPT, offer_kv=True))
        offer = (await prefilled.end_of("one")).offer
        async with open_aio_channel(offer.address, None) as channel:
            release = ReleaseRequest(ticket_id=offer.ticket_id, producer_epoch="another life", reason="cancelled")
            assert not (await KvTransferStub(channel).Release(release)).freed
            release.producer_epoch = offer.producer_epoch
            assert (await KvTransferStub(channel).Release(release)).freed
        assert prefill.load().free_blocks == prefilled.facts.kv_blocks


async def test_a_running_request_moves_with_its_kv_cache(model: str) -> None:
    whole = expected_tokens(PROMPT, 60, VOCAB)
    async with running(model, name="a", speed=1.0) as (old, first), running(model, name="b") as (new, second):
        old.submit(leg("one", PROMPT, 60))
        await until(lambda: len(first.tokens.get("one", ())) > 5)
        old.move("one")
        last = await first.end_of("one")
        assert last.finish_reason == FINISH_REASON_ABORT
        have = first.tokens["one"]
        assert have == whole[: len(have)]
        assert last.offer.tokens == len(PROMPT) + len(have) - 1
        new.submit(leg("one", PROMPT + have, 60 - len(have), ticket=last.offer))
        moved = await second.end_of("one")
        assert have + second.tokens["one"] == whole
        assert moved.usage.transferred_tokens == last.offer.tokens
        await until(lambda: old.load().free_blocks == first.facts.kv_blocks)


async def test_whatever_is_aborted_or_moved_and_whenever_both_ends_return_to_their_baseline(model: str) -> None:
    chance = random.Random(4)
    async with (
        running(model, "prefill", "p", speed=20, num_gpu_blocks_override=200, max_model_len=1000) as (prefill, given),
        running(model, "decode", "d", speed=20, num_gpu_blocks_override=100, max_model_len=1000) as (decode, taken),
    ):
        ended: set[str] = set()

        def hand_over(output) -> None:  # type: ignore[no-untyped-def]
            if output.HasField("offer"):
                prompt = prompts[output.request_id]
                decode.submit(leg(output.request_id, [*prompt, *output.token_ids], 30, ticket=output.offer))

        prompts = {f"r{n}": [chance.randrange(4) for _ in range(chance.randrange(1, 300))] for n in range(60)}
        given.on_tokens = hand_over
        for request_id, prompt in prompts.items():
            prefill.submit(leg(request_id, prompt, offer_kv=True))

        def disturb(output) -> None:  # type: ignore[no-untyped-def]
            victim = chance.choice(list(prompts))
            if chance.random() < 0.05 and victim in taken.tokens and victim not in taken.last:
                ended.add(victim)
                decode.abort(victim)

        taken.on_tokens = disturb
        await until(lambda: len(taken.last.keys() | ended) == len(prompts))
        for request_id in taken.last.keys() - ended:
            whole = given.tokens[request_id] + taken.tokens[request_id]
            assert whole == expected_tokens(prompts[request_id], 31, VOCAB)
        await until(lambda: prefill.load().free_blocks == 200 and decode.load().free_blocks == 100)
        assert prefill.load().held_offers == 0
        view = set[int]()
        for event in taken.events:
            view.update(event.stored.blocks)
            view.difference_update(event.removed.blocks)
        assert view == decode._cache.names.keys()
