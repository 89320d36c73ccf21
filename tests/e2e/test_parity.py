"""The cluster's answers are a single engine's, token for token."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any

import pytest

from segue.client import SegueClient
from segue.proto.inference_pb2 import Path
from tests.e2e.reference import Case, Reference
from tests.e2e.running import Cluster, assert_baseline

pytestmark = pytest.mark.engine

BLOCK_TOKENS = 128
MAX_MODEL_LEN_TOKENS = 4096
OUTPUT_TOKENS = 16
# Each path over NIXL has one test; the bytes that travel are the same whatever is drawn from them.
NIXL = pytest.param("nixl", marks=pytest.mark.variant)
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": OUTPUT_TOKENS, "ignore_eos": True}


def prompt_of(tokens: int, seed: int) -> tuple[int, ...]:
    draw = random.Random(f"{tokens}/{seed}")
    return tuple(draw.randrange(3, 1000) for _ in range(tokens))


def _lengths(spread: int) -> list[int]:
    """One token, around block boundaries, several blocks, the longest the model takes; and ``spread`` between them."""
    around = [boundary + offset for boundary in (128, 256, 1024) for offset in (-1, 0, 1)]
    longest = MAX_MODEL_LEN_TOKENS - OUTPUT_TOKENS
    return [1, 2, *around, longest - 1, longest, *random.Random(7).sample(range(3, 900), spread)]


async def check(
    client: SegueClient, reference: Reference, cases: Sequence[Case], at_once: int
) -> list[tuple[Path, str]]:
    """All answers equal the reference's; each request's path and transport."""
    slots = asyncio.Semaphore(at_once)

    async def ask(case: Case) -> tuple[tuple[int, ...], Path, str]:
        async with slots:
            answer = await client.generate(case.prompt, **case.sampling)
            return answer.token_ids, answer.timings.path, answer.timings.transport

    answers = await asyncio.gather(*(ask(case) for case in cases))
    expected = await asyncio.to_thread(reference.answer, cases)
    wrong = [
        (len(case.prompt), case.sampling, got, want)
        for case, (got, _, _), want in zip(cases, answers, expected, strict=True)
        if got != want
    ]
    assert not wrong, f"{len(wrong)} of {len(cases)} differ; the first: {wrong[0]}"
    return [(path, transport) for _, path, transport in answers]


async def test_greedy_one_at_a_time(cluster: Cluster, client: SegueClient, reference: Reference) -> None:
    cases = [Case(prompt_of(length, 1), GREEDY) for length in _lengths(spread=5)]
    went = await check(client, reference, cases, at_once=1)
    assert {path for path, _ in went} == {Path.PATH_SEEDED}


async def test_greedy_sixteen_at_a_time(cluster: Cluster, client: SegueClient, reference: Reference) -> None:
    cases = [Case(prompt_of(length, 2), GREEDY) for length in _lengths(spread=35)]
    await check(client, reference, cases, at_once=16)


async def check_sampling(client: SegueClient, reference: Reference, sampling: dict[str, Any], path: Path) -> None:
    # repetition_penalty here: a prompt that repeats itself.
    prompts = [prompt_of(length, 3) for length in (1, 127, 128, 300)] + [prompt_of(20, 4) * 10]
    cases = [Case(prompt, {"max_tokens": OUTPUT_TOKENS, **sampling}) for prompt in prompts]
    went = await check(client, reference, cases, at_once=1)
    assert {seen for seen, _ in went} <= {path, Path.PATH_PREFILL_ONLY}
    await check(client, reference, cases, at_once=8)


async def test_a_seeded_draw(client: SegueClient, reference: Reference) -> None:
    await check_sampling(client, reference, {"temperature": 0.8, "seed": 11, "top_p": 0.9}, Path.PATH_EXACT)


@pytest.mark.parametrize(
    ("sampling", "path"),
    [
        ({"temperature": 1.2, "seed": 5, "top_k": 40, "min_p": 0.02}, Path.PATH_EXACT),
        ({"temperature": 0.0, "presence_penalty": 1.5, "frequency_penalty": 0.7}, Path.PATH_EXACT),
        ({"temperature": 0.0, "repetition_penalty": 1.3}, Path.PATH_SEEDED),
        ({"temperature": 0.9, "seed": 3, "presence_penalty": 1.0, "repetition_penalty": 1.1}, Path.PATH_EXACT),
        ({"temperature": 0.0, "logit_bias": {17: 5.0, 99: -100.0}}, Path.PATH_SEEDED),
        ({"temperature": 0.0, "min_tokens": 5, "stop_token_ids": list(range(3, 120))}, Path.PATH_SEEDED),
    ],
    ids=["seed-top_k-min_p", "penalties", "repetition", "seed-penalties", "bias", "min_tokens"],
)
@pytest.mark.parametrize("cluster", ["grpc", NIXL], indirect=True)
async def test_sampling(
    cluster: Cluster, client: SegueClient, reference: Reference, sampling: dict[str, Any], path: Path
) -> None:
    await check_sampling(client, reference, sampling, path)


async def test_shared_prefix(cluster: Cluster, client: SegueClient, reference: Reference) -> None:
    shared = prompt_of(3 * BLOCK_TOKENS, 5)
    first = Case(shared + prompt_of(50, 6), GREEDY)
    await check(client, reference, [first], at_once=1)
    second = Case(shared + prompt_of(70, 7), GREEDY)
    answer = await client.generate(second.prompt, **second.sampling)
    assert (answer.token_ids,) == tuple(reference.answer([second]))
    assert answer.usage.cached_prompt_tokens == len(shared)
    assert answer.timings.prefill_computed_tokens == 70


async def test_one_token_needs_no_hand_off(client: SegueClient, reference: Reference) -> None:
    case = Case(prompt_of(MAX_MODEL_LEN_TOKENS - 1, 8), {"temperature": 0.0, "max_tokens": 1})
    went = await check(client, reference, [case], at_once=1)
    assert went == [(Path.PATH_PREFILL_ONLY, "")]


async def test_each_engine_did_only_its_part(cluster: Cluster, client: SegueClient) -> None:
    """By the engines' own counters: the largest of all requests so far, and the sums over some that ran to their end.

    A request that ends early, at a stop string say, has computed its token and isn't counted as a request.
    """
    before = cluster.describe("decode-0").counters
    prompts = [prompt_of(length, 9) for length in (700, 130, 2000)]
    for prompt in prompts:
        await client.generate(prompt, **GREEDY)
    prefill, decode = cluster.describe("prefill-0").counters, cluster.describe("decode-0").counters
    assert prefill.requests > 0
    assert prefill.max_generated_tokens_per_request == 1
    assert prefill.generated_tokens == prefill.requests
    assert decode.requests - before.requests == len(prompts)
    assert decode.max_computed_tokens_per_request <= 1
    assert decode.computed_tokens - before.computed_tokens <= len(prompts)


async def test_blocks_return_to_the_baseline(cluster: Cluster, client: SegueClient) -> None:
    await client.generate(prompt_of(500, 10), **GREEDY)
    await asyncio.to_thread(assert_baseline, cluster)
