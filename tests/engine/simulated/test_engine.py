"""Whole simulated engines, on the event loop, faster than life."""

from __future__ import annotations

import pytest

from segue.base.errors import SettingsError
from segue.engine.simulated.tokens import expected_tokens
from segue.proto.sampling_pb2 import (
    FINISH_REASON_ERROR,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    StructuredOutputs,
)
from segue.proto.worker_pb2 import RequestError
from tests.engine.simulated.listening import leg, running, until

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
