"""Schemas of the HTTP API's answers, for its description."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Json = dict[str, Any]

_STRING: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_FINISH: Json = {"enum": ["stop", "length", "abort", "error"]}


def _object(**properties: Json) -> Json:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _choice(**content: Json) -> Json:
    return _object(
        index=_COUNT,
        **content,
        logprobs={"type": ["object", "null"]},
        finish_reason=_FINISH,
        stop_reason={"type": ["string", "integer", "null"]},
    )


def _answer(kind: str, choice: Json) -> Json:
    return _object(
        id=_STRING,
        object={"const": kind},
        created=_COUNT,
        model=_STRING,
        choices={"type": "array", "items": choice, "minItems": 1},
        usage=_object(prompt_tokens=_COUNT, completion_tokens=_COUNT, total_tokens=_COUNT),
        segue={"type": "object", "description": "How the request was carried out."},
    )


_MODEL = _object(id=_STRING, object={"const": "model"}, created=_COUNT, owned_by=_STRING, max_model_len=_COUNT)

SCHEMAS: Json = {
    "Completion": _answer("text_completion", _choice(text=_STRING)),
    "ChatCompletion": _answer(
        "chat.completion", _choice(message=_object(role={"const": "assistant"}, content=_STRING))
    ),
    "Model": _MODEL,
    "ModelList": _object(object={"const": "list"}, data={"type": "array", "items": _MODEL}),
    "Health": _object(status={"const": "ok"}),
    "Error": _object(
        error=_object(
            message=_STRING,
            type=_STRING,
            param={"type": ["string", "null"]},
            code={"type": ["string", "null"]},
        )
    ),
}

_ERRORS = {
    400: "The request can't be served as it is; the message names the field, its value and its bounds.",
    401: "No valid API key.",
    403: "The key doesn't allow this.",
    404: "There is no such model or address.",
    413: "The body is over its limit.",
    429: "Over a limit on concurrent work; Retry-After says when to come back.",
    500: "A fault of the router's or the engines'.",
    503: "Nobody can serve the request now.",
    504: "The deadline passed.",
}


def ref(schema: str) -> Json:
    return {"$ref": f"#/components/schemas/{schema}"}


def of(answer: str, *, stream: bool, statuses: Sequence[int]) -> Json:
    """The responses of an operation: its answer, and each error in the one shape."""
    content: Json = {"application/json": {"schema": ref(answer)}}
    if stream:
        # Each event's data is a chunk of the answer as JSON, the last one's is [DONE].
        content["text/event-stream"] = {"schema": _object(data=_STRING)}
    error: Json = {"application/json": {"schema": ref("Error")}}
    return {"200": {"description": "The answer.", "content": content}} | {
        str(status): {"description": _ERRORS[status], "content": error} for status in statuses
    }
