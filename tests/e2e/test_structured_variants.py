"""Structured outputs where ``make test`` doesn't look: over NIXL, and out of AsyncLLM, whose scheduling is its own."""

from __future__ import annotations

import asyncio
from pathlib import Path as FilePath
from typing import Any

import httpx
import pytest

from segue.client import SegueClient
from segue.proto.inference_pb2 import Path
from tests.e2e.reference import Case, Reference
from tests.e2e.running import assert_baseline, running_cluster
from tests.e2e.test_parity import GREEDY, prompt_of
from tests.e2e.test_structured_outputs import CHOICES, CONSTRAINTS

pytestmark = [pytest.mark.engine, pytest.mark.variant, pytest.mark.timeout(480)]

SAMPLINGS: tuple[dict[str, Any], ...] = (
    {"temperature": 0.0, "max_tokens": 40},
    {"temperature": 1.0, "seed": 7, "max_tokens": 40, "frequency_penalty": 0.5},
)


@pytest.mark.parametrize(("engine", "transport"), [("inproc", "nixl"), ("async", "grpc"), ("async", "nixl")])
async def test_answers_are_a_single_engines(
    tmp_path: FilePath, reference: Reference, engine: str, transport: str
) -> None:
    """All kinds at once, between answers without a constraint: a batch has rows of both."""
    arguments = ("--engine", engine, "--transport", transport, "--engine-arg", "dtype=float32")
    prompts = (prompt_of(127, 20), prompt_of(300, 20))
    kinds = [(kind, prompt, sampling) for kind in CONSTRAINTS for prompt in prompts for sampling in SAMPLINGS]
    plain = [Case(prompt_of(length, 21), GREEDY) for length in (1, 128, 200, 256)]
    cases = [Case(prompt, {**rest, "structured_outputs": CONSTRAINTS[kind][1]}) for kind, prompt, rest in kinds]
    expected = await asyncio.to_thread(reference.answer, [*cases, *plain])
    with running_cluster(tmp_path, *arguments) as cluster:
        assert cluster.describe("decode-0").status.facts.engine == f"vllm-{engine}"
        async with SegueClient(cluster.grpc_address) as client:
            asked = [
                client.generate(prompt, structured_outputs=CONSTRAINTS[kind][0], timeout_s=120, **rest)
                for kind, prompt, rest in kinds
            ]
            asked += [client.generate(case.prompt, timeout_s=120, **case.sampling) for case in plain]
            answers = await asyncio.gather(*asked)
        wrong = [
            (name, answer.token_ids, want)
            for name, answer, want in zip([*kinds, *plain], answers, expected, strict=True)
            if answer.token_ids != want
        ]
        assert not wrong, f"{len(wrong)} of {len(answers)} differ; the first: {wrong[0]}"
        constrained = answers[: len(kinds)]
        assert {answer.timings.path for answer in constrained} <= {Path.PATH_EXACT, Path.PATH_PREFILL_ONLY}
        assert {answer.timings.transport for answer in constrained if answer.timings.path == Path.PATH_EXACT} == {
            transport
        }
        async with httpx.AsyncClient(base_url=cluster.http_url, timeout=60) as http:
            body = {"model": cluster.model, "prompt": "a", "max_tokens": 20, "temperature": 1.0}
            choice = {"structured_outputs": {"choice": CHOICES}, "n": 3}
            drawn = await http.post("/v1/completions", json=body | choice)
            assert {choice["text"] for choice in drawn.json()["choices"]} <= set(CHOICES)
            for impossible in ({"grammar": 'root ::= root "a"'}, {"grammar": "root ::= nowhere"}, {"regex": "("}):
                refused = await http.post("/v1/completions", json=body | {"structured_outputs": impossible})
                assert refused.status_code == 400, refused.text
        assert_baseline(cluster, within_s=5)
