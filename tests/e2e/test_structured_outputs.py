"""Answers held to a schema, a regex, a choice: by both legs, as a single engine would, and refused where it would."""

from __future__ import annotations

import json
import re
from typing import Any

import grpc
import httpx
import pytest

from segue.client import SegueClient
from segue.proto.inference_pb2 import GenerateRequest, Path
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams, StructuredOutputs
from tests.e2e.reference import Case, Reference
from tests.e2e.running import ONE_CLUSTER, Cluster, assert_baseline
from tests.e2e.test_parity import prompt_of

pytestmark = [pytest.mark.engine, ONE_CLUSTER]

SCHEMA = {
    "type": "object",
    "properties": {"color": {"enum": ["red", "green"]}, "size": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["color", "size"],
    "additionalProperties": False,
}
CHOICES = ["prefill", "decode", "router"]
# As proto, and as vLLM has it.
CONSTRAINTS: dict[str, tuple[StructuredOutputs, dict[str, Any]]] = {
    "json": (StructuredOutputs(json_schema=json.dumps(SCHEMA)), {"json": SCHEMA}),
    "regex": (StructuredOutputs(regex="[a-f]{3}-[0-9]{20}"), {"regex": "[a-f]{3}-[0-9]{20}"}),
    "choice": (StructuredOutputs(choice=StructuredOutputs.Choice(options=CHOICES)), {"choice": CHOICES}),
    "grammar": (StructuredOutputs(grammar='root ::= "a" root | "b"'), {"grammar": 'root ::= "a" root | "b"'}),
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
async def test_tokens_are_a_single_engines(client: SegueClient, reference: Reference, kind: str) -> None:
    asked, theirs = CONSTRAINTS[kind]
    for prompt in (prompt_of(127, 20), prompt_of(300, 20)):
        samplings: tuple[dict[str, Any], ...] = (
            {"temperature": 0.0, "max_tokens": 48},
            {"temperature": 1.0, "seed": 7, "max_tokens": 48, "frequency_penalty": 0.5},
        )
        for sampling in samplings:
            answer = await client.generate(prompt, structured_outputs=asked, **sampling)
            want = reference.answer([Case(prompt, {**sampling, "structured_outputs": theirs})])[0]
            assert answer.token_ids == want
            assert answer.timings.path in {Path.PATH_EXACT, Path.PATH_PREFILL_ONLY}
            if answer.timings.path == Path.PATH_EXACT:
                assert "structured_outputs" in answer.timings.path_reason


def test_http_gives_what_was_asked_for(cluster: Cluster) -> None:
    def answers(**fields: Any) -> list[str]:
        body = {"model": cluster.model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 60, **fields}
        answer = httpx.post(f"{cluster.http_url}/v1/chat/completions", json=body, timeout=30)
        assert answer.status_code == 200, answer.text
        return [choice["message"]["content"] for choice in answer.json()["choices"]]

    (text,) = answers(
        response_format={
            "type": "json_schema",
            # No object or array: in those the embedded model would write white space until its tokens are spent.
            "json_schema": {"name": "color", "schema": {"enum": ["red", "green"]}, "strict": True},
        },
        temperature=0,
    )
    assert json.loads(text) in {"red", "green"}
    drawn = answers(structured_outputs={"choice": CHOICES}, n=4, temperature=1.0, seed=3)
    assert len(drawn) == 4
    assert set(drawn) <= set(CHOICES)
    # Half of what the grammar gives is looked for as a stop string: the answer ends before it.
    (text,) = answers(structured_outputs={"regex": "ab{2}cd{9}"}, stop=["cdd"], temperature=0)
    assert text == "abb"
    # Where the constraint could end at once, min_tokens still holds.
    (text,) = answers(structured_outputs={"regex": "[a-z]+"}, min_tokens=20, max_tokens=30, temperature=0)
    assert re.fullmatch("[a-z]+", text)
    assert_baseline(cluster)


@pytest.mark.parametrize(
    "fields",
    [
        {"structured_outputs": {"regex": "("}},
        {"structured_outputs": {"grammar": "root ::= nowhere"}},
        {"structured_outputs": {"json": {"type": "nothing"}}},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": 5}}}},
        {"structured_outputs": {"json": {"$ref": "#/$defs/none"}}},
        {"structured_outputs": {"structural_tag": "{}"}},
        {"structured_outputs": {"grammar": 'root ::= root "a"'}},  # Taken, but no token can begin it.
    ],
    ids=["regex", "grammar", "type", "schema", "ref", "tag", "nothing"],
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_engine_cannot_hold_to_is_400(cluster: Cluster, fields: dict[str, Any], stream: bool) -> None:
    body = {"model": cluster.model, "prompt": "a", "max_tokens": 20, "temperature": 0, "stream": stream, **fields}
    answer = httpx.post(f"{cluster.http_url}/v1/completions", json=body, timeout=30)
    if answer.status_code == 200 and stream:  # Found out after the first token.
        assert '"type":"invalid_request_error"' in answer.text, answer.text
    else:
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert_baseline(cluster)
    assert (
        httpx.post(
            f"{cluster.http_url}/v1/completions", json=body | {"stream": False} | dict.fromkeys(fields)
        ).status_code
        == 200
    )


def test_grpc_refuses_with_invalid_argument(cluster: Cluster) -> None:
    with grpc.insecure_channel(cluster.grpc_address) as channel:
        for asked in (StructuredOutputs(), StructuredOutputs(regex="("), StructuredOutputs(json_schema="[]")):
            request = GenerateRequest(text="a", sampling=SamplingParams(structured_outputs=asked))
            with pytest.raises(grpc.RpcError) as raised:
                InferenceStub(channel).GenerateUnary(request, timeout=10)
            error: Any = raised.value
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error.details()
