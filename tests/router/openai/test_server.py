"""Bad input and errors: each ends its request and leaves the server serving."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from aiohttp import ClientSession, web

from segue.base.errors import InternalError, Overloaded, Unavailable
from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse
from segue.proto.sampling_pb2 import StructuredOutputs
from segue.router.limits import Limits
from segue.router.models import ServedModel
from segue.router.openai.server import make_app, make_runner
from segue.router.service import Generation
from tests.router.openai.asked import CHAT, COMPLETION, FakeService, Step, post


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
