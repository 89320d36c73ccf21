"""``GET /openapi.json``: the HTTP API as an OpenAPI 3.1 document, made from the schema that reads the requests.

What stands in it is what is checked: a body that it forbids is refused, with the bounds of this router's limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from segue.router.limits import Limits
from segue.router.openai import responses
from segue.router.openai.fields import IGNORED, UNSUPPORTED
from segue.router.openai.headers import (
    CLASS_HEADER,
    EXPLAIN_HEADER,
    LABEL_HEADER,
    PRIORITY_HEADER,
    TENANT_HEADER,
    TIMEOUT_HEADER,
)
from segue.router.openai.schema import MESSAGE_FIELDS, MESSAGE_IGNORED, ChatCompletionRequest, CompletionRequest
from segue.router.queueing.slo import DEFAULT_CLASSES, SloClasses
from segue.router.queueing.terms import MAX_PRIORITY

Json = dict[str, Any]

_TOKEN_ID: Json = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_TOKEN_IDS: Json = {"type": "array", "items": _TOKEN_ID, "minItems": 1}
_TEXT_PART: Json = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}


def describe(limits: Limits, classes: SloClasses = DEFAULT_CLASSES) -> Json:
    """The document."""
    schemas = {
        "CompletionRequest": _request(CompletionRequest, _completion_bounds(limits), ["prompt"]),
        "ChatCompletionRequest": _request(ChatCompletionRequest, _chat_bounds(limits), ["messages"]),
        **responses.SCHEMAS,
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "Segue", "version": "1", "description": _ABOUT},
        "paths": {
            "/v1/completions": {"post": _generate("CompletionRequest", "Completion", limits, classes)},
            "/v1/chat/completions": {"post": _generate("ChatCompletionRequest", "ChatCompletion", limits, classes)},
            "/v1/models": {"get": _get("listModels", "ModelList")},
            "/v1/models/{id}": {"get": _get("getModel", "Model") | {"parameters": [_MODEL_ID]}},
            "/healthz": {"get": _get("healthz", "Health") | {"security": []}},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer", "description": "If the router has keys."}},
        },
        "security": [{}, {"key": []}],
    }


_ABOUT = (
    "OpenAI's completions and chat completions. A field that is null counts as absent. Unknown fields are refused, and "
    "so are those that reach into the engines (kv_transfer_params and the like)."
)

_MODEL_ID: Json = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}


def _request(kind: type[BaseModel], bounds: Mapping[str, Json], required: list[str]) -> Json:
    schema = kind.model_json_schema()
    properties: Json = {name: {} for name in sorted(IGNORED)}
    properties |= {name: {"enum": [*values, None]} for name, values in UNSUPPORTED.items() if values}
    properties |= {name: _or_null(_bounded(name, one, bounds)) for name, one in schema["properties"].items()}
    for name in required:
        properties[name] = bounds[name]
    return {
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": {"type": "null"},
        "anyOf": [
            {"properties": {"stream_options": {"type": "null"}}},
            {"properties": {"stream": {"const": True}}, "required": ["stream"]},
        ],
        **({"$defs": definitions} if (definitions := _defs(schema)) else {}),
    }


def _bounded(name: str, own: Json, bounds: Mapping[str, Json]) -> Json:
    if name in bounds:
        return bounds[name]
    return {key: value for key, value in own.items() if key not in ("title", "default")}


def _or_null(schema: Json) -> Json:
    return schema if {"type": "null"} in schema.get("anyOf", ()) else {"anyOf": [schema, {"type": "null"}]}


def _defs(schema: Json) -> Json:
    """Nothing: the one nested object is written out, so that the document has no references between schemas."""
    return {name: one for name, one in schema.get("$defs", {}).items() if name != "StreamOptions"}


def _completion_bounds(limits: Limits) -> dict[str, Json]:
    prompts = {"minItems": 1, "maxItems": limits.max_prompts}
    return _bounds(limits) | {
        "prompt": {
            "anyOf": [
                {"type": "string"},
                {"type": "array", "items": {"type": "string"}, **prompts},
                _TOKEN_IDS,
                {"type": "array", "items": _TOKEN_IDS, **prompts},
            ]
        },
        "logprobs": {"type": "integer", "minimum": 0, "maximum": limits.max_logprobs},
    }


def _chat_bounds(limits: Limits) -> dict[str, Json]:
    content: Json = {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_PART}, {"type": "null"}]}
    known: Json = {"role": {"type": "string"}, "content": content}
    assert set(known) == set(MESSAGE_FIELDS)
    message: Json = {
        "type": "object",
        "properties": {name: {} for name in sorted(MESSAGE_IGNORED | IGNORED)}
        | {name: {"enum": [*values, None]} for name, values in UNSUPPORTED.items() if values}
        | known,
        "required": ["role"],
        "additionalProperties": {"type": "null"},
    }
    return _bounds(limits) | {
        "messages": {"type": "array", "items": message, "minItems": 1, "maxItems": limits.max_messages},
        "top_logprobs": {"type": "integer", "minimum": 0, "maximum": limits.max_logprobs},
        "echo": {"const": False},
    }


def _bounds(limits: Limits) -> dict[str, Json]:
    """What the field's type doesn't say."""
    stop: Json = {"type": "string", "minLength": 1, "maxLength": limits.max_stop_chars}
    return {
        "temperature": {"type": "number", "minimum": 0, "maximum": 2},
        "top_p": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "top_k": {"type": "integer", "minimum": -1, "maximum": 2**31 - 1},
        "min_p": {"type": "number", "minimum": 0, "maximum": 1},
        "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
        "repetition_penalty": {"type": "number", "exclusiveMinimum": 0},
        "max_tokens": {"type": "integer", "minimum": 1, "maximum": 2**32 - 1},
        "n": {"type": "integer", "minimum": 1, "maximum": limits.max_n},
        "stop": {"anyOf": [stop, {"type": "array", "items": stop, "maxItems": limits.max_stop}]},
        "stop_token_ids": {"type": "array", "items": _TOKEN_ID, "maxItems": limits.max_stop_token_ids},
        "logit_bias": {
            "type": "object",
            "propertyNames": {"pattern": "^[0-9]{1,10}$"},
            "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
            "maxProperties": limits.max_logit_bias,
        },
        "stream_options": {
            "type": "object",
            "properties": {name: {"type": ["boolean", "null"]} for name in ("include_usage", "include_obfuscation")},
            "additionalProperties": False,
        },
    }


def _generate(request: str, answer: str, limits: Limits, classes: SloClasses) -> Json:
    return {
        "operationId": f"create{answer}",
        "parameters": [
            {
                "name": TIMEOUT_HEADER,
                "in": "header",
                "description": f"The request's deadline, in seconds from now. Default {limits.default_timeout_s:g}.",
                "schema": {"type": "number", "exclusiveMinimum": 0, "maximum": limits.max_timeout_s},
            },
            {
                "name": LABEL_HEADER,
                "in": "header",
                "description": "Your own label: sent back, and never used inside. One of another form is dropped.",
                "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:/+=@-]{1,128}$"},
            },
            *_terms(classes),
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": responses.ref(request)}}},
        "responses": responses.of(answer, stream=True, statuses=(400, 401, 403, 404, 413, 429, 500, 503, 504)),
    }


def _terms(classes: SloClasses) -> list[Json]:
    names = [one.name for one in classes]
    headers: list[tuple[str, str, Json]] = [
        (CLASS_HEADER, f"What the request is promised (docs/slo.md). Default {names[0]}.", {"enum": names}),
        (
            PRIORITY_HEADER,
            "Within the class: lower is sooner. Default 0.",
            {"type": "integer", "minimum": -MAX_PRIORITY, "maximum": MAX_PRIORITY},
        ),
        (
            TENANT_HEADER,
            "Whose share it counts in. With API keys it is the key's name, and another one is refused.",
            {"type": "string", "pattern": "^[A-Za-z0-9._@-]{1,64}$"},
        ),
        (EXPLAIN_HEADER, "1: the answer's field segue tells why it went where it went.", {"enum": ["0", "1"]}),
    ]
    return [
        {"name": name, "in": "header", "description": description, "schema": schema}
        for name, description, schema in headers
    ]


def _get(operation: str, answer: str) -> Json:
    return {"operationId": operation, "responses": responses.of(answer, stream=False, statuses=(400, 401, 403, 404))}
