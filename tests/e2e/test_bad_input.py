"""What can't be served is refused at once, with the right status and both numbers, and the cluster serves on."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from segue.proto.inference_pb2 import ChatMessage, ChatMessages, GenerateRequest, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams
from tests.e2e.running import ONE_CLUSTER, Cluster, assert_baseline, launched

pytestmark = pytest.mark.engine

LONGEST = 4096
BODY_LIMIT_BYTES = 8 * 1024 * 1024


@pytest.fixture
def serving(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster, which must serve as well after the test as before."""
    yield cluster
    answer = httpx.post(
        f"{cluster.http_url}/v1/completions", json={"model": cluster.model, "prompt": "still", "max_tokens": 3}
    )
    assert answer.status_code == 200, answer.text
    assert_baseline(cluster)


def refused(url: str, body: object, path: str = "/v1/completions") -> tuple[int, dict[str, Any]]:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = httpx.post(url + path, content=content, headers={"content-type": "application/json"}, timeout=10)
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return answer.status_code, error


@ONE_CLUSTER
@pytest.mark.parametrize(
    ("fields", "status", "param", "said"),
    [
        ({"model": "gpt-9"}, 404, "model", ["gpt-9", "segue-tiny"]),
        ({"prompt": [7] * 4097}, 400, "prompt", ["4097", "4096"]),
        ({"prompt": [7] * 4096}, 400, "prompt", ["4096"]),
        ({"prompt": "word " * 30_000}, 400, "prompt", ["4096"]),
        ({"prompt": [7] * 4000, "max_tokens": 97}, 400, "max_tokens", ["4097", "4096", "96"]),
        ({"max_tokens": 0}, 400, "max_tokens", ["0", "1"]),
        ({"max_tokens": 10**12}, 400, "max_tokens", ["1000000000000"]),
        ({"n": 9}, 400, "n", ["9", "8"]),
        ({"n": 0}, 400, "n", ["0", "1"]),
        ({"logprobs": 21}, 400, "logprobs", ["21", "20"]),
        ({"temperature": 2.5}, 400, "temperature", ["2.5", "2"]),
        ({"temperature": "hot"}, 400, "temperature", ["hot"]),
        ({"max_tokens": "many"}, 400, "max_tokens", ["many"]),
        ({"stream": 1}, 400, "stream", ["1"]),
        ({"prompt": {"text": "a"}}, 400, "prompt", ["an object"]),
        ({"prompt": ""}, 200, None, []),  # One token: the model's beginning of sequence.
        ({"prompt": []}, 400, "prompt", ["empty"]),
        ({"prompt": [-1]}, 400, "prompt", []),
        ({"prompt": [2048]}, 400, "prompt", ["2048", "2047"]),
        ({"stop": [str(i) for i in range(9)]}, 400, "stop", ["9", "8"]),
        ({"stop": ""}, 400, "stop", ["0"]),
        ({"logit_bias": {"2048": 1}}, 400, "logit_bias", ["2048"]),
        ({"min_tokens": 9, "max_tokens": 3}, 400, "min_tokens", ["9", "3"]),
        ({"kv_transfer_params": {"do_remote_decode": True}}, 400, "kv_transfer_params", ["internal"]),
        ({"request_id": "mine"}, 400, "request_id", ["internal"]),
        ({"vllm_xargs": {"segue": {}}}, 400, "vllm_xargs", ["internal"]),
        ({"extra_args": {"forced_token_ids": [1]}}, 400, "extra_args", ["internal"]),
        ({"priority": 3}, 400, "priority", ["internal"]),
        ({"data_parallel_rank": 0}, 400, "data_parallel_rank", ["internal"]),
        ({"max_token": 5}, 400, "max_token", ["max_tokens"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_http(serving: Cluster, fields: dict[str, Any], status: int, param: str | None, said: list[str]) -> None:
    body = {"model": serving.model, "prompt": "a", "max_tokens": 3, **fields}
    if status == 200:
        assert httpx.post(f"{serving.http_url}/v1/completions", json=body).status_code == 200
        return
    for stream in [fields["stream"]] if "stream" in fields else [False, True]:
        seen, error = refused(serving.http_url, body | {"stream": stream})
        assert (seen, error["param"]) == (status, param), error
        for word in said:
            assert word in error["message"], error


@ONE_CLUSTER
@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": "a",}', b"\xff\xfe", b"[]", b"null", b'"text"', b"[" * 200_000, b'{"n": NaN}', b"{} {}"],
    ids=["empty", "open", "comma", "bytes", "array", "null", "string", "deep", "nan", "two"],
)
def test_what_is_no_json_object_is_400(serving: Cluster, body: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        status, error = refused(serving.http_url, body, path)
        assert (status, error["type"]) == (400, "invalid_request_error"), error


@ONE_CLUSTER
@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hello"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"content": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": "word " * 30_000}]}, "messages"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"messages": [{"role": "user", "content": "a", "kv_transfer_params": {}}]}, "messages[0].kv_transfer_params"),
    ],
    ids=["string", "none", "role", "content", "image", "long", "top_logprobs", "tools", "format", "internal"],
)
def test_chat(serving: Cluster, fields: dict[str, Any], param: str) -> None:
    body = {"model": serving.model, "messages": [{"role": "user", "content": "a"}], "max_tokens": 3, **fields}
    status, error = refused(serving.http_url, body, "/v1/chat/completions")
    assert (status, error["param"]) == (400, param), error


@ONE_CLUSTER
def test_a_body_over_the_limit_is_413(serving: Cluster) -> None:
    body = json.dumps({"model": serving.model, "prompt": "x" * BODY_LIMIT_BYTES}).encode()
    status, error = refused(serving.http_url, body)
    assert status == 413
    assert str(len(body)) in error["message"]
    assert str(BODY_LIMIT_BYTES) in error["message"]

    def unannounced() -> Iterator[bytes]:
        for _ in range(9):
            yield b" " * 1024 * 1024

    answer = httpx.post(f"{serving.http_url}/v1/completions", content=unannounced())
    assert answer.status_code == 413


@ONE_CLUSTER
def test_addresses_and_methods_that_are_not_there(serving: Cluster) -> None:
    assert refused(serving.http_url, {}, "/v1/nothing")[0] == 404
    wrong = httpx.get(f"{serving.http_url}/v1/completions")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


@ONE_CLUSTER
@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        (GenerateRequest(model="gpt-9", text="a"), grpc.StatusCode.NOT_FOUND, ["gpt-9", "segue-tiny"]),
        (GenerateRequest(), grpc.StatusCode.INVALID_ARGUMENT, ["text", "token_ids", "chat"]),
        (GenerateRequest(token_ids=TokenIds()), grpc.StatusCode.INVALID_ARGUMENT, ["empty"]),
        (GenerateRequest(token_ids=TokenIds(ids=[7] * 4097)), grpc.StatusCode.INVALID_ARGUMENT, ["4097", "4096"]),
        (GenerateRequest(token_ids=TokenIds(ids=[2048])), grpc.StatusCode.INVALID_ARGUMENT, ["2048", "2047"]),
        (GenerateRequest(text="word " * 30_000), grpc.StatusCode.INVALID_ARGUMENT, ["4096"]),
        (GenerateRequest(text="a", n=9), grpc.StatusCode.INVALID_ARGUMENT, ["9", "8"]),
        (
            GenerateRequest(text="a", sampling=SamplingParams(max_tokens=5000)),
            grpc.StatusCode.INVALID_ARGUMENT,
            ["5000", "4096"],
        ),
        (
            GenerateRequest(text="a", sampling=SamplingParams(temperature=float("nan"))),
            grpc.StatusCode.INVALID_ARGUMENT,
            ["temperature"],
        ),
        (
            GenerateRequest(chat=ChatMessages(messages=[ChatMessage(role="user", content="a")]), echo=True),
            grpc.StatusCode.INVALID_ARGUMENT,
            ["echo"],
        ),
        (GenerateRequest(text="x" * (BODY_LIMIT_BYTES + 1)), grpc.StatusCode.RESOURCE_EXHAUSTED, []),
    ],
    ids=["model", "none", "empty", "long", "token", "text", "n", "max_tokens", "nan", "echo", "size"],
)
def test_grpc(serving: Cluster, request_: GenerateRequest, status: grpc.StatusCode, said: list[str]) -> None:
    with grpc.insecure_channel(serving.grpc_address) as channel:
        stub = InferenceStub(channel)
        for call in (
            lambda: stub.GenerateUnary(request_, timeout=10),
            lambda: list(stub.Generate(request_, timeout=10)),
        ):
            with pytest.raises(grpc.RpcError) as raised:
                call()
            error: Any = raised.value
            assert error.code() is status
            for word in said:
                assert word in error.details()


@ONE_CLUSTER
def test_bytes_that_are_no_message_end_in_an_error(serving: Cluster) -> None:
    with grpc.insecure_channel(serving.grpc_address) as channel:
        with pytest.raises(grpc.RpcError) as raised:
            channel.unary_unary("/segue.v1.Inference/GenerateUnary", None, None)(b"\xff\xff\xff", timeout=5)
        error: Any = raised.value
        assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "3 bytes" in error.details()


def test_without_workers_requests_are_refused_at_once(tmp_path: Path) -> None:
    ports = ("--port", "0", "--grpc-port", "0", "--worker-port", "0")
    with launched(tmp_path, "router", *ports, "--log-format", "json") as process:
        http_port, grpc_port = _serving_ports(tmp_path / "up.log")
        started_s = time.monotonic()
        body = {"model": "segue-tiny", "prompt": "a", "max_tokens": 3}
        for stream in (False, True):
            status, error = refused(f"http://127.0.0.1:{http_port}", body | {"stream": stream})
            assert (status, error["code"]) == (503, "service_unavailable")
            assert "no prefill and no decode worker" in error["message"]
        with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
            with pytest.raises(grpc.RpcError) as raised:
                InferenceStub(channel).GenerateUnary(GenerateRequest(text="a"), timeout=30)
            unavailable: Any = raised.value
            assert unavailable.code() is grpc.StatusCode.UNAVAILABLE
            assert "no prefill and no decode worker" in unavailable.details()
        assert time.monotonic() - started_s < 25, "at once, and not when a patience or a deadline is over"
        assert httpx.get(f"http://127.0.0.1:{http_port}/readyz").status_code == 503
        assert httpx.get(f"http://127.0.0.1:{http_port}/healthz").status_code == 200
        assert process.poll() is None
        process.terminate()
        assert process.wait(60) == 0


def _serving_ports(log: Path) -> tuple[int, int]:
    for _ in range(1200):
        text = log.read_text()
        if '"serving"' in text:
            return int(re.findall(r'"http": (\d+)', text)[0]), int(re.findall(r'"grpc": (\d+)', text)[0])
        time.sleep(0.1)
    raise AssertionError(f"the router doesn't serve:\n{log.read_text()}")
