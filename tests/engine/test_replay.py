"""Answers whose first tokens are sampled once more, as when a decode worker is lost: the rest must be as before.

tests/faults does the same with the in-process engine, through a router. AsyncLLM schedules a step before it has the
tokens of the one before; grammars, penalties and forced tokens are what that could break.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from segue.proto.sampling_pb2 import SamplingParams, StructuredOutputs
from segue.proto.worker_pb2 import Submit
from tests.engine.decode_workers import Decode, decode_workers

pytestmark = [pytest.mark.engine, pytest.mark.variant, pytest.mark.timeout(300)]

PROMPT = [7 * number % 1900 + 50 for number in range(200)]
ANSWER_TOKENS = 60
SCHEMA = '{"type": "array", "items": {"type": "integer"}, "minItems": 40}'
KINDS: Mapping[str, dict[str, Any]] = {
    "seed": {"temperature": 0.9, "top_p": 0.95, "seed": 11},
    "penalties": {"temperature": 0.0, "presence_penalty": 0.7, "frequency_penalty": 0.4, "repetition_penalty": 1.1},
    "seed and penalties": {"temperature": 1.0, "seed": 5, "frequency_penalty": 0.5},
    "regex": {"temperature": 0.0, "structured_outputs": StructuredOutputs(regex="([a-z]{3,9} ){30,}[.]")},
    "json and seed": {"temperature": 1.0, "seed": 8, "structured_outputs": StructuredOutputs(json_schema=SCHEMA)},
}


def leg(name: str, kind: str, forced: list[int]) -> Submit:
    sampling = SamplingParams(max_tokens=ANSWER_TOKENS, **KINDS[kind])
    return Submit(request_id=name, input_token_ids=PROMPT, sampling=sampling, timeout_s=120, forced_token_ids=forced)


async def answers(worker: Decode, forced: Mapping[str, list[int]], name: str) -> dict[str, list[int]]:
    """Of all kinds at once."""
    await worker.submit(*(leg(f"{name} {kind}", kind, forced.get(kind, [])) for kind in KINDS))
    for kind in KINDS:
        last = await worker.last(f"{name} {kind}")
        assert not last.HasField("error"), last.error
    return {kind: worker.tokens(f"{name} {kind}") for kind in KINDS}


async def test_a_replayed_answer_goes_on_as_it_would_have(tmp_path: Path) -> None:
    async with decode_workers(tmp_path, ["decode-0"], "--engine", "async", "--transport", "grpc") as (worker,):
        undisturbed = await answers(worker, {}, "undisturbed")
        assert all(len(tokens) > 20 for tokens in undisturbed.values()), undisturbed
        for replayed in (1, 2, 20):
            forced = {kind: tokens[:replayed] for kind, tokens in undisturbed.items()}
            assert await answers(worker, forced, f"replayed {replayed}") == undisturbed
        await worker.is_at_baseline()
