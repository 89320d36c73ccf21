"""Bad input, errors, deadlines, clients that go away: each ends its request and leaves the server serving."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientSession, web

from segue.base.errors import InternalError, Overloaded, SegueError, Unavailable
from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse
from segue.proto.sampling_pb2 import StructuredOutputs
from segue.router.limits import Limits
from segue.router.openai.server import make_app, make_runner
from segue.router.service import Generation, ServedModel

COMPLETION = {"model": "org/tiny", "prompt": "Hello", "max_tokens": 2}
CHAT = {"model": "org/tiny", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2}

# The fake core of conftest.py, and what its scripts yield.
FakeService = Any
Step = GenerateResponse | SegueError | float

LONG = list(range(100, 700))


async def post(http: ClientSession, body: Any, path: str = "/v1/completions", **headers: str) -> tuple[int, Any]:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with http.post(path, data=data, headers=headers) as response:
        return response.status, await response.json()


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"max_tokens": "5"}, "max_tokens", "'5'"),
        ({"max_tokens": 5.5}, "max_tokens", "5.5"),
        ({"max_tokens": True}, "max_tokens", "True"),
        ({"max_tokens": -1}, "max_tokens", "-1"),
        ({"max_tokens": 0}, "max_tokens", "at least 1"),
        ({"max_tokens": 2**70}, "max_tokens", "less than or equal"),
        ({"max_tokens": 600}, "max_tokens", "The model takes 512"),
        ({"prompt": LONG, "max_tokens": 1}, "prompt", "600 tokens, but the model takes 512"),
        ({"prompt": "x " * 4000}, "prompt", "but the model takes 512"),
        ({"prompt": [2048]}, "prompt", "token id 2048; the model's ids are 0 to 2047"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": [[]]}, "prompt", "empty"),
        ({"prompt": [1, "a"]}, "prompt", "an array of another shape"),
        ({"prompt": [True]}, "prompt", "an array of another shape"),
        ({"prompt": [-1]}, "prompt", "an array of another shape"),
        ({"prompt": None}, "prompt", "prompt is missing"),
        ({"prompt": ["a"] * 33}, "prompt", "33 prompts; it must hold between 1 and 32"),
        ({"n": 0}, "n", "n is 0; it must be between 1 and 8"),
        ({"n": 9}, "n", "n is 9"),
        ({"n": 8, "prompt": ["a"] * 17}, "n", "8 for each of 17 prompts, 136 answers in all; at most 128"),
        (
            {"temperature": 2.5},
            "temperature",
            "temperature is 2.5; it must be a number of at least 0 and at most 2",
        ),
        ({"temperature": -0.1}, "temperature", "-0.1"),
        ({"temperature": "hot"}, "temperature", "'hot'"),
        ({"top_p": 0}, "top_p", "more than 0"),
        ({"top_k": -2}, "top_k", "-2"),
        ({"min_p": 1.1}, "min_p", "1.1"),
        ({"presence_penalty": 3}, "presence_penalty", "3"),
        ({"frequency_penalty": -3}, "frequency_penalty", "-3"),
        ({"repetition_penalty": 0}, "repetition_penalty", "more than 0"),
        ({"repetition_penalty": 1e39}, "repetition_penalty", "inf"),
        ({"min_tokens": 3}, "min_tokens", "at most max_tokens, which is 2"),
        ({"seed": 2**63}, "seed", "less than or equal"),
        ({"stop": ["a"] * 9}, "stop", "9 entries"),
        ({"stop": [""]}, "stop", "a string of 0 characters"),
        ({"stop": ["a" * 257]}, "stop", "257"),
        ({"stop": [1]}, "stop", "1"),
        ({"stop_token_ids": [9999]}, "stop_token_ids", "9999"),
        ({"logprobs": 21}, "logprobs", "21"),
        ({"logprobs": True}, "logprobs", "True"),
        ({"logprobs": 1, "echo": True}, "logprobs", "echo"),
        ({"logit_bias": {"x": 1}}, "logit_bias", "'x'"),
        ({"logit_bias": {"5": 101}}, "logit_bias", "101"),
        ({"logit_bias": {"9999": 1}}, "logit_bias", "9999"),
        ({"best_of": 3}, "best_of", "best_of is 3"),
        ({"suffix": "end"}, "suffix", "not supported"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
        ({"stream": "yes"}, "stream", "'yes'"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "'yaml'; it must be 'text', 'json_object'"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "null"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": 1}}},
            "response_format.json_schema.schema",
            "an integer",
        ),
        ({"structured_outputs": {}}, "structured_outputs", "exactly one of json, regex"),
        ({"structured_outputs": {"regex": "a", "json": {}}}, "structured_outputs", "it holds json, regex"),
        ({"structured_outputs": {"choice": "a"}}, "structured_outputs.choice", "an array of strings"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs", "0 texts"),
        ({"structured_outputs": {"choice": ["a"] * 1025}}, "structured_outputs", "between 1 and 1024"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs", "not valid JSON"),
        ({"structured_outputs": {"json": "[" * 200_0}}, "structured_outputs", "levels deep"),
        ({"structured_outputs": {"json_object": False}}, "structured_outputs", "json_object is false"),
        ({"structured_outputs": {"regex": "a" * 4097}}, "structured_outputs", "4097 characters; at most 4096"),
        ({"structured_outputs": {"grammar": "x" * 65537}}, "structured_outputs", "65537 bytes; at most 65536"),
        (
            {"structured_outputs": {"json": {}, "whitespace_pattern": " "}},
            "structured_outputs.whitespace_pattern",
            "engines",
        ),
        (
            {"structured_outputs": {"json_object": True}, "response_format": {"type": "json_object"}},
            "structured_outputs",
            "one constraint only",
        ),
        ({"tools": [{"type": "function"}], "tool_choice": "required"}, "tools", "not supported"),
        ({"tool_choice": "required"}, "tool_choice", "not supported"),
        ({"tool_choice": {"type": "function", "function": {"name": "f"}}}, "tool_choice", "not supported"),
        ({"prompt_logprobs": 0}, "prompt_logprobs", "not supported"),
        ({"do_remote_decode": True}, "do_remote_decode", "internal"),
        ({"guided_json": {}}, "guided_json", "use structured_outputs.json"),
        ({"use_beam_search": 0}, "use_beam_search", "not supported"),
        ({"kv_transfer_params": {"do_remote_decode": True}}, "kv_transfer_params", "internal"),
        ({"request_id": "x"}, "request_id", "internal"),
        ({"priority": 1}, "priority", "internal"),
        ({"vllm_xargs": {}}, "vllm_xargs", "internal"),
        ({"prompt_embeds": "AA"}, "prompt_embeds", "internal"),
        ({"temprature": 1}, "temprature", "did you mean 'temperature'?"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
async def test_a_bad_completion_is_a_400_that_names_the_field(
    http: ClientSession, service: FakeService, change: dict[str, Any], param: str, says: str
) -> None:
    status, body = await post(http, COMPLETION | change)
    error = body["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert says in error["message"]
    assert service.generations == []
    assert (await post(http, COMPLETION))[0] == 200


@pytest.mark.parametrize(
    ("change", "param", "says"),
    [
        ({"messages": []}, "messages", "0 messages"),
        ({"messages": "Hi"}, "messages", "a string"),
        ({"messages": [1]}, "messages[0]", "an integer"),
        ({"messages": [{"content": "a"}]}, "messages[0].role", "null"),
        ({"messages": [{"role": "user", "content": 1}]}, "messages[0].content", "an integer"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
            "'image_url', which is not supported",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "tool_calls": [{}]}]},
            "messages[0].tool_calls",
            "not supported",
        ),
        ({"messages": [{"role": "user", "contents": "a"}]}, "messages[0].contents", "'content'"),
        ({"messages": [{"role": "user", "content": "x " * 900}]}, "messages", "the model takes 512"),
        ({"tools": [{"type": "function"}]}, "tools", "not supported"),
        ({"tool_choice": "required"}, "tool_choice", "not supported"),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs=true"),
        ({"logprobs": 2}, "logprobs", "2"),
        ({"logprobs": True, "top_logprobs": 21}, "logprobs", "21"),
        ({"echo": True}, "echo", "not for chat"),
        ({"prompt": "a"}, "prompt", "not a known field"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
async def test_a_bad_chat_is_a_400_that_names_the_field(
    http: ClientSession, service: FakeService, change: dict[str, Any], param: str, says: str
) -> None:
    status, body = await post(http, CHAT | change, "/v1/chat/completions")
    error = body["error"]
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param), error
    assert says in error["message"]
    assert service.generations == []


async def test_harmless_and_neutral_fields_are_let_through(http: ClientSession) -> None:
    fields = {
        "user": "me",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "temperature": None,
        "suffix": None,
    }
    assert (await post(http, CHAT | fields, "/v1/chat/completions"))[0] == 200
    sent_back = [
        {"role": "user", "content": "a", "name": "me"},
        {"role": "assistant", "content": None, "refusal": None, "tool_calls": None, "audio": None},
        {"role": "user", "content": "b"},
    ]
    assert (await post(http, CHAT | {"messages": sent_back}, "/v1/chat/completions"))[0] == 200


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b'{"model": "\xff"}', b'{"a": "\\ud800"}', b'{"a": NaN}', b"[" * 100_000, b'"text"', b"[]"],
)
async def test_malformed_json_is_a_400(http: ClientSession, body: bytes) -> None:
    status, answer = await post(http, body)
    assert (status, answer["error"]["type"]) == (400, "invalid_request_error")


async def test_an_over_size_body_is_a_413_however_it_is_sent(http: ClientSession) -> None:
    big = json.dumps(COMPLETION | {"prompt": "a" * 300_000}).encode()
    status, body = await post(http, big)
    assert (status, body["error"]["code"]) == (413, "payload_too_large")
    assert "at most 200000" in body["error"]["message"]

    async def in_chunks() -> Any:
        for start in range(0, len(big), 50_000):
            yield big[start : start + 50_000]

    async with http.post("/v1/completions", data=in_chunks()) as response:
        assert response.status == 413
        assert (await response.json())["error"]["code"] == "payload_too_large"
    assert (await post(http, COMPLETION))[0] == 200


async def test_unknown_routes_and_methods_have_the_same_shape(http: ClientSession) -> None:
    assert (await post(http, {}, "/v1/nothing"))[0] == 404
    async with http.get("/v1/completions") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"
        assert (await response.json())["error"]["code"] == "method_not_allowed"
    async with http.get("/healthz") as response:
        assert await response.json() == {"status": "ok"}


async def test_an_unknown_model_is_a_404(http: ClientSession) -> None:
    status, body = await post(http, COMPLETION | {"model": "gpt-4"})
    assert (status, body["error"]["code"], body["error"]["param"]) == (404, "model_not_found", "model")
    without = {name: value for name, value in COMPLETION.items() if name != "model"}
    assert (await post(http, without))[0] == 200


async def test_refusals_of_the_core_keep_their_status(http: ClientSession, service: FakeService) -> None:
    service.refusal = Unavailable("no decode worker is ready")
    status, body = await post(http, COMPLETION)
    assert (status, body["error"]["type"]) == (503, "service_unavailable_error")
    service.refusal = Overloaded("too many requests", retry_after_s=1.2)
    async with http.post("/v1/completions", json=COMPLETION) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "2")
    service.refusal = ZeroDivisionError("secret")
    status, body = await post(http, COMPLETION)
    assert status == 500
    assert "secret" not in json.dumps(body)


async def test_a_full_cluster_refuses_before_it_reads(http: ClientSession, service: FakeService) -> None:
    service.full = Overloaded("busy", retry_after_s=2.5)
    async with http.post("/v1/completions", json=COMPLETION, headers={"X-Request-Timeout-S": "9"}) as response:
        assert (response.status, response.headers["Retry-After"]) == (429, "3")
        assert (await response.json())["error"]["code"] == "overloaded"
    assert (await post(http, CHAT, "/v1/chat/completions"))[0] == 429
    assert (await post(http, b"{"))[0] == 429
    assert [demand.timeout_s for demand in service.demands] == [9, 50, 50]
    assert not service.generations


async def test_an_error_before_the_first_token_is_the_status(http: ClientSession, service: FakeService) -> None:
    service.script = lambda _: iter([0.01, Unavailable("the prefill worker died")])
    for stream in (False, True):
        status, body = await post(http, COMPLETION | {"stream": stream})
        assert (status, body["error"]["message"]) == (503, "the prefill worker died")


async def test_an_error_after_the_first_token_ends_the_stream_without_done(
    http: ClientSession, service: FakeService
) -> None:
    first = GenerateResponse(choices=[ChoiceDelta(text="hi")])
    service.script = lambda _: iter([first, 0.05, InternalError("the decode worker died")])
    async with http.post("/v1/completions", json=COMPLETION | {"stream": True}) as response:
        assert response.status == 200
        events = (await response.text()).removesuffix("\n\n").split("\n\n")
    assert len(events) == 2
    assert json.loads(events[1].removeprefix("data: "))["error"]["message"] == "the decode worker died"
    assert (await post(http, COMPLETION))[0] == 500


async def test_one_prompts_error_cancels_the_others(http: ClientSession, service: FakeService) -> None:
    def script(generation: Generation) -> Iterator[Step]:
        yield Unavailable("gone") if generation.prompt == (5,) else 100.0

    service.script = script
    assert (await post(http, COMPLETION | {"prompt": [[4], [5]]}))[0] == 503
    assert service.handles[0].cancelled.is_set()


async def test_a_fault_in_rendering_ends_the_request_alone(http: ClientSession, service: FakeService) -> None:
    service.script = lambda _: iter([GenerateResponse(choices=[ChoiceDelta(index=7, text="?")]), 100.0])
    status, body = await post(http, COMPLETION)
    assert (status, body["error"]["code"]) == (500, "internal_error")
    assert service.handles[0].cancelled.is_set()


def endless(_: Generation) -> Iterator[Step]:
    while True:
        yield GenerateResponse(choices=[ChoiceDelta(text="word ", token_ids=[1])])
        yield 0.005


@pytest.mark.parametrize("stream", [True, False])
async def test_a_client_that_goes_away_cancels_its_request(
    http: ClientSession, service: FakeService, stream: bool
) -> None:
    service.script = endless
    body = COMPLETION | {"stream": stream, "prompt": ["a", "b"]}
    request = asyncio.create_task(http.post("/v1/completions", json=body))
    while len(service.handles) < 2:
        await asyncio.sleep(0.01)
    if stream:
        response = await request
        await response.content.read(100)
        response.close()
    else:
        request.cancel()
    async with asyncio.timeout(2):
        for handle in service.handles:
            await handle.cancelled.wait()


async def test_a_reader_that_is_too_slow_is_dropped(url: str, service: FakeService) -> None:
    flood = GenerateResponse(choices=[ChoiceDelta(text="x" * 50_000)])

    def script(_: Generation) -> Iterator[Step]:
        while True:
            yield flood
            yield 0.0

    service.script = script
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), limit=1)
    body = json.dumps(COMPLETION | {"stream": True}).encode()
    writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    while not service.handles:
        await asyncio.sleep(0.01)
    async with asyncio.timeout(10):
        await service.handles[0].cancelled.wait()
    writer.close()
    assert reader.at_eof() is False


async def test_a_stream_over_http_1_0_has_no_chunk_framing(url: str) -> None:
    host, port = url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    body = json.dumps(COMPLETION | {"stream": True}).encode()
    writer.write(b"POST /v1/completions HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
    head, content = (await reader.read()).split(b"\r\n\r\n", 1)
    assert b"chunked" not in head.lower()
    assert content.startswith(b"data: {")
    assert content.endswith(b"data: [DONE]\n\n")
    writer.close()


async def test_the_clients_label_is_echoed_and_no_id(http: ClientSession, service: FakeService) -> None:
    for stream in (False, True):
        async with http.post(
            "/v1/completions", json=COMPLETION | {"stream": stream}, headers={"X-Request-Id": "my-id.1"}
        ) as response:
            assert response.headers["X-Request-Id"] == "my-id.1"
            assert response.headers["X-Segue-Request-Id"] == service.handles[-1].request_id
    assert service.generations[0].label == "my-id.1"
    for label in ("x" * 129, "a b", "\u00e9"):
        async with http.get("/healthz", headers={"X-Request-Id": label}) as response:
            assert "X-Request-Id" not in response.headers
    async with http.post("/v1/completions", data=b"{", headers={"X-Request-Id": "bad"}) as response:
        assert response.headers["X-Request-Id"] == "bad"


async def test_the_deadline_comes_from_the_header(http: ClientSession, service: FakeService) -> None:
    await post(http, COMPLETION)
    assert 49 < service.generations[0].timeout_s <= 50
    await post(http, COMPLETION, **{"X-Request-Timeout-S": "7.5"})
    assert 7 < service.generations[1].timeout_s <= 7.5
    for bad in ("soon", "nan", "inf", "0", "-1", "101", "", "1_0", "1e1", "0x5", "5s", "5, 6", "\u0665", "9" * 40):
        status, body = await post(http, COMPLETION, **{"X-Request-Timeout-S": bad})
        assert (status, body["error"]["param"]) == (400, "X-Request-Timeout-S")


async def test_a_deadline_that_is_given_twice_is_refused(http: ClientSession, service: FakeService) -> None:
    headers = [("X-Request-Timeout-S", "5"), ("X-Request-Timeout-S", "6")]
    async with http.post("/v1/completions", json=COMPLETION, headers=headers) as response:
        assert response.status == 400
        assert "'5, 6'; it must be one number of seconds" in (await response.json())["error"]["message"]
    assert service.generations == []


async def test_headers_set_nothing_inside(http: ClientSession, service: FakeService) -> None:
    await post(http, COMPLETION)
    names = ("KV-Transfer-Params", "X-KV-Transfer-Params", "X-Data-Parallel-Rank", "X-Priority", "X-Prefill-Host-Port")
    await post(http, COMPLETION, **dict.fromkeys(names, "7"))
    first, second = service.generations
    assert replace(second, timeout_s=first.timeout_s) == first


async def test_a_header_over_the_limit_is_refused_with_it(http: ClientSession, limits: Limits) -> None:
    for path, headers in (
        ("/healthz", {"X-Long": "x" * (limits.max_header_bytes + 1)}),
        ("/healthz", {"X-Long" * limits.max_header_bytes: "x"}),
        ("/healthz?" + "x" * limits.max_header_bytes, {}),
    ):
        async with http.get(path, headers=headers) as response:
            assert response.status == 431
            error = (await response.json())["error"]
            assert (error["type"], error["message"]) == (
                "invalid_request_error",
                f"a header, or the request line, has more than {limits.max_header_bytes} bytes; at most "
                f"{limits.max_header_bytes} are taken",
            )
    async with http.get("/healthz", headers={"X-Long": "x" * (limits.max_header_bytes - 100)}) as response:
        assert response.status == 200


@pytest.mark.parametrize("depth", [64, 65, 500, 90_000])
@pytest.mark.parametrize("name", ["metadata", "tools", "unknown"])
async def test_a_body_that_is_nested_too_deeply_is_refused(http: ClientSession, name: str, depth: int) -> None:
    inner = b"[" * (depth - 1) + b"]" * (depth - 1)
    body = json.dumps(COMPLETION)[:-1].encode() + b', "%s": %s}' % (name.encode(), inner)
    status, answer = await post(http, body)
    too_deep = "the body is nested more than 64 levels deep; at most 64 are taken"
    assert (answer.get("error", {}).get("message") == too_deep) == (depth > 64)
    assert status == (200 if name == "metadata" and depth <= 64 else 400)


async def test_half_a_surrogate_pair_is_no_json(http: ClientSession) -> None:
    status, body = await post(http, b'{"model": "org/tiny", "prompt": "\\ud800"}')
    assert (status, body["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_object"}}, {"json_object": True}),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": {"b": 1, "a": 2}}}},
            {"json_schema": '{"b":1,"a":2}'},
        ),
        (
            {"response_format": {"type": "structural_tag", "format": {"type": "any_text"}}},
            {"structural_tag": '{"type":"structural_tag","format":{"type":"any_text"}}'},
        ),
        ({"structured_outputs": {"json": {"type": "object"}}}, {"json_schema": '{"type":"object"}'}),
        ({"structured_outputs": {"json": ' {"a": 1}', "regex": None}}, {"json_schema": ' {"a": 1}'}),
        ({"structured_outputs": {"json_object": True, "disable_any_whitespace": False}}, {"json_object": True}),
        ({"structured_outputs": {"regex": "a+"}, "response_format": {"type": "text"}}, {"regex": "a+"}),
        ({"structured_outputs": {"choice": ["b", "a"]}}, {"choice": {"options": ["b", "a"]}}),
        ({"structured_outputs": {"grammar": 'root ::= "a"'}}, {"grammar": 'root ::= "a"'}),
    ],
    ids=lambda value: json.dumps(value)[:60] if isinstance(value, dict) else "",
)
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions"])
async def test_a_constraint_arrives_as_it_was_asked_for(
    http: ClientSession, service: FakeService, path: str, fields: dict[str, Any], constraint: dict[str, Any] | None
) -> None:
    status, body = await post(http, (CHAT if "chat" in path else COMPLETION) | fields, path)
    assert status == 200, body
    (generation,) = service.generations
    assert generation.sampling.HasField("structured_outputs") == (constraint is not None)
    assert generation.sampling.structured_outputs == StructuredOutputs(**constraint or {})


async def test_sampling_arrives_as_it_was_sent(http: ClientSession, service: FakeService) -> None:
    body = {
        "prompt": [5, 6],
        "temperature": 0.5,
        "top_p": 0.5,
        "top_k": 7,
        "min_p": 0.25,
        "seed": -3,
        "stop": "END",
        "stop_token_ids": [9],
        "min_tokens": 1,
        "presence_penalty": 0.5,
        "frequency_penalty": -0.5,
        "repetition_penalty": 1.5,
        "logit_bias": {"11": -100},
        "ignore_eos": True,
    }
    assert (await post(http, body))[0] == 200
    sampling = service.generations[0].sampling
    assert service.generations[0].prompt == (5, 6)
    assert sampling.max_tokens == 16
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.5, 7, 0.25)
    assert (sampling.seed, list(sampling.stop), list(sampling.stop_token_ids)) == (-3, ["END"], [9])
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (
        0.5,
        -0.5,
        1.5,
    )
    assert (dict(sampling.logit_bias), sampling.ignore_eos, sampling.min_tokens) == ({11: -100.0}, True, 1)
    assert not sampling.HasField("logprobs")
    chat = {name: value for name, value in CHAT.items() if name != "max_tokens"}
    await post(http, chat | {"n": 1}, "/v1/chat/completions")
    filled = service.generations[1]
    assert filled.sampling.max_tokens == 512 - len(filled.prompt)


async def test_before_any_worker_has_registered_no_model_is_served(
    service: FakeService, limits: Limits, models: dict[str, ServedModel]
) -> None:
    served: dict[str, ServedModel] = {}
    runner = make_runner(make_app(service, served, limits), limits)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with ClientSession(f"http://{host}:{port}") as http:
        assert (await post(http, COMPLETION))[0] == 404
        served.update(models)
        assert (await post(http, COMPLETION))[0] == 200
    await runner.cleanup()
