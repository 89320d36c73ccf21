"""Whole simulated engines, on the event loop, faster than life."""

from __future__ import annotations

import random
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from segue.base.errors import SettingsError
from segue.engine.simulated.kv_peers import KvPeers
from segue.engine.simulated.tokens import expected_tokens
from segue.proto.kv_transfer_pb2 import ReleaseRequest
from segue.proto.kv_transfer_pb2_grpc import KvTransferStub
from segue.proto.sampling_pb2 import (
    FINISH_REASON_ABORT,
    FINISH_REASON_ERROR,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    StructuredOutputs,
)
from segue.proto.worker_pb2 import RequestError
from tests.engine.simulated.listening import leg, running, until
from tests.security.mesh import Authority

PROMPT = [7 * place % 2000 for place in range(100)]
VOCAB = 2048


async def test_it_answers_with_the_tokens_that_are_expected_and_ends_at_its_baseline(model: str) -> None:
    async with running(model) as (engine, listener):
        for number in range(20):
            engine.submit(leg(f"r{number}", [*PROMPT, number], 5 + number))
        for number in range(20):
            last = await listener.end_of(f"r{number}")
            assert last.finish_reason == FINISH_REASON_LENGTH
            assert listener.tokens[f"r{number}"] == expected_tokens([*PROMPT, number], 5 + number, VOCAB)
        load = engine.load()
        assert load.free_blocks == listener.facts.kv_blocks
        assert load.running_requests == load.waiting_requests == load.waiting_tokens == load.held_offers == 0
        assert engine.counters().requests == 20
        assert engine.counters().generated_tokens == sum(5 + number for number in range(20))


async def test_facts_and_layout_say_that_it_is_simulated(model: str) -> None:
    async with running(model, gpu="a100", model_shape="llama-3.2-1b") as (_, listener):
        facts = listener.facts
        assert facts.simulated
        assert (facts.engine, facts.accelerator, facts.transport) == ("simulated", "A100", "simulated")
        assert facts.layout.model.startswith("simulated-")
        assert facts.vocab_size == VOCAB
        assert facts.layout.block_bytes == 16 * 2 * 16 * 8 * 64 * 2


async def test_a_stop_token_ends_an_answer_but_not_before_min_tokens(model: str) -> None:
    whole = expected_tokens(PROMPT, 10, VOCAB)
    async with running(model) as (engine, listener):
        engine.submit(leg("one", PROMPT, 10, stop_token_ids=[whole[4]]))
        last = await listener.end_of("one")
        assert (last.finish_reason, last.stop_token_id) == (FINISH_REASON_STOP, whole[4])
        assert listener.tokens["one"] == whole[:5]
        engine.submit(leg("two", PROMPT, 10, stop_token_ids=[whole[4]], min_tokens=8))
        await listener.end_of("two")
        assert whole[4] not in listener.tokens["two"][:8]
        assert len(listener.tokens["two"]) >= 8


async def test_the_end_of_sequence_counts_unless_it_is_to_be_ignored(model: str) -> None:
    prompt = next([seed, 5] for seed in range(2000) if 1 in expected_tokens([seed, 5], 20, VOCAB))
    whole = expected_tokens(prompt, 20, VOCAB)
    async with running(model) as (engine, listener):
        engine.submit(leg("heeds", prompt, 20, ignore_eos=False))
        engine.submit(leg("ignores", prompt, 20))
        assert (await listener.end_of("heeds")).finish_reason == FINISH_REASON_STOP
        await listener.end_of("ignores")
        assert listener.tokens["heeds"] == whole[: whole.index(1) + 1]
        assert listener.tokens["ignores"] == whole


async def test_forced_tokens_come_out_whatever_the_next_ones_would_be(model: str) -> None:
    async with running(model) as (engine, listener):
        engine.submit(leg("one", PROMPT, 6, forced=[9, 8, 7]))
        await listener.end_of("one")
        assert listener.tokens["one"] == [9, 8, 7, *expected_tokens([*PROMPT, 9, 8, 7], 3, VOCAB)]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"structured_outputs": StructuredOutputs(json_object=True)}, "structured_outputs"),
        ({"logprobs": 2}, "logprobs"),
    ],
)
async def test_what_has_no_sense_without_a_model_is_refused(model: str, fields: dict[str, object], words: str) -> None:
    async with running(model) as (engine, listener):
        engine.submit(leg("one", PROMPT, 6, **fields))  # type: ignore[arg-type]
        last = await listener.end_of("one")
        assert last.finish_reason == FINISH_REASON_ERROR
        assert last.error.kind == RequestError.KIND_INVALID
        assert words in last.error.message


async def test_a_prompt_beyond_the_models_length_or_vocabulary_is_refused(model: str) -> None:
    async with running(model, max_model_len=64) as (engine, listener):
        engine.submit(leg("long", [1] * 64))
        engine.submit(leg("strange", [1, VOCAB]))
        assert "63 at most" in (await listener.end_of("long")).error.message
        assert "2047" in (await listener.end_of("strange")).error.message
        engine.submit(leg("fits", [1] * 63, 500))
        assert (await listener.end_of("fits")).finish_reason == FINISH_REASON_LENGTH
        assert len(listener.tokens["fits"]) == 1


async def test_more_than_the_cache_holds_is_preempted_and_still_answered_right(model: str) -> None:
    async with running(model, num_gpu_blocks_override=20, max_model_len=200) as (engine, listener):
        prompts = {f"r{number}": [number] * 50 for number in range(10)}
        for request_id, prompt in prompts.items():
            engine.submit(leg(request_id, prompt, 100))
        for request_id, prompt in prompts.items():
            await listener.end_of(request_id)
            assert listener.tokens[request_id] == expected_tokens(prompt, 100, VOCAB)
        assert engine.load().free_blocks == 20


async def test_a_prompt_that_is_cached_is_not_computed_again(model: str) -> None:
    async with running(model, max_num_batched_tokens=16) as (engine, listener):
        engine.submit(leg("one", PROMPT))
        first = await listener.end_of("one")
        steps = engine.load().steps
        engine.submit(leg("two", PROMPT))
        second = await listener.end_of("two")
        assert (first.usage.cached_tokens, second.usage.cached_tokens) == (0, 96)
        assert engine.load().steps == steps + 1 < 10
        assert [event.WhichOneof("event") for event in listener.events] == ["stored"] * len(listener.events)
        assert sum(len(event.stored.blocks) for event in listener.events) == 6


async def test_an_abort_frees_at_once_in_every_phase(model: str) -> None:
    async with running(model, speed=0.01) as (engine, listener):
        engine.submit(leg("running", PROMPT, 100))
        await until(lambda: engine.load().running_requests)
        engine.submit(leg("waiting", PROMPT, 100))
        assert engine.load().waiting_requests == 1
        engine.abort("running")
        engine.abort("waiting")
        engine.abort("never heard of")
        assert engine.load().free_blocks == listener.facts.kv_blocks
        assert listener.last == {}


async def test_a_lower_priority_number_goes_first(model: str) -> None:
    order: list[str] = []
    async with running(model, max_num_seqs=1) as (engine, listener):
        listener.on_tokens = lambda output: order.append(output.request_id)
        for request_id, priority in (("late", 5), ("soon", 1), ("normal", 3)):
            engine.submit(leg(request_id, PROMPT, priority=priority))
        await until(lambda: len(order) == 3)
    assert order == ["soon", "normal", "late"]


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


async def test_failures_are_injected_as_asked(model: str) -> None:
    async with running(model, fail_after_s=0.01, error_rate=1.0) as (engine, listener):
        engine.submit(leg("one", PROMPT))
        assert (await listener.end_of("one")).error.kind == RequestError.KIND_UNAVAILABLE
        await until(lambda: listener.failures)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"gpu": "H10"}, "did you mean 'H100'"),
        ({"model_shape": "lama-8b"}, "did you mean 'llama-3.1-8b'"),
        ({"blok_size": 16}, "did you mean 'block_size'"),
        ({"speed": 0}, "speed"),
        ({"model_shape": "llama-3.1-70b"}, "tensor_parallel_size"),
        ({"max_model_len": 10_000_000}, "max_model_len"),
    ],
)
async def test_settings_that_can_not_be_are_refused_with_what_could(model: str, args: dict, words: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(SettingsError, match=words):
        async with running(model, **args):
            pass
