"""``response_format`` (OpenAI's) and ``structured_outputs`` (vLLM's) as one :class:`StructuredOutputs`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from segue.base.errors import InvalidRequest
from segue.proto.sampling_pb2 import StructuredOutputs
from segue.router.openai.fields import json_kind, readable_fields

RESPONSE_FORMAT = "response_format"
STRUCTURED_OUTPUTS = "structured_outputs"

_KINDS = ("json", "regex", "choice", "grammar", "json_object", "structural_tag")
# How vLLM writes JSON is a setting of the engine here: a request's own would have to hold on both legs.
_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "disable_any_whitespace": (False,),
    "disable_additional_properties": (False,),
    "whitespace_pattern": (),
}


def read_constraint(
    response_format: Mapping[str, Any] | None, structured_outputs: Mapping[str, Any] | None
) -> tuple[StructuredOutputs | None, str]:
    """The one constraint that a request asks for, or None, and the field it came in.

    Raises InvalidRequest naming the field at fault: of the wrong type, unknown, or a second constraint.
    """
    by_format = _from_response_format(response_format) if response_format is not None else None
    by_vllm = _from_structured_outputs(structured_outputs) if structured_outputs is not None else None
    if by_format is not None and by_vllm is not None:
        raise InvalidRequest(
            "response_format and structured_outputs are both set; an answer can be held to one constraint only",
            param=STRUCTURED_OUTPUTS,
        )
    return (by_format, RESPONSE_FORMAT) if by_vllm is None else (by_vllm, STRUCTURED_OUTPUTS)


def _from_response_format(value: Mapping[str, Any]) -> StructuredOutputs | None:
    kind = value.get("type")
    if kind == "text":
        return None
    if kind == "json_object":
        return StructuredOutputs(json_object=True)
    if kind == "json_schema":
        where = f"{RESPONSE_FORMAT}.json_schema"
        named = readable_fields(value.get("json_schema"), ("name", "description", "schema", "strict"), where)
        if "schema" not in named:
            raise InvalidRequest(f"{where}.schema is missing; it is required", param=f"{where}.schema")
        return StructuredOutputs(json_schema=_schema_text(named["schema"], f"{where}.schema"))
    if kind == "structural_tag":
        return StructuredOutputs(structural_tag=msgspec.json.encode(value).decode())
    raise InvalidRequest(
        f"response_format.type is {_shown(kind)}; it must be 'text', 'json_object', 'json_schema' or 'structural_tag'",
        param=f"{RESPONSE_FORMAT}.type",
    )


def _from_structured_outputs(value: Mapping[str, Any]) -> StructuredOutputs:
    given = {
        name: one for name, one in value.items() if not (name in _NEUTRAL and any(one is own for own in _NEUTRAL[name]))
    }
    fields = readable_fields(given, (*_KINDS, *_NEUTRAL), STRUCTURED_OUTPUTS)
    for name in _NEUTRAL:
        if name in fields:
            param = f"{STRUCTURED_OUTPUTS}.{name}"
            raise InvalidRequest(
                f"{param} is not supported for one request; set it for the engines (structured_outputs_config)",
                param=param,
                code="unsupported_parameter",
            )
    if len(fields) != 1:
        seen = ", ".join(sorted(fields)) or "none"
        raise InvalidRequest(
            f"structured_outputs must hold exactly one of {', '.join(_KINDS)}; it holds {seen}",
            param=STRUCTURED_OUTPUTS,
        )
    ((kind, constraint),) = fields.items()
    param = f"{STRUCTURED_OUTPUTS}.{kind}"
    if kind == "json":
        text = constraint if isinstance(constraint, str) else _schema_text(constraint, param)
        return StructuredOutputs(json_schema=text)
    if kind == "choice":
        if not isinstance(constraint, list) or not all(isinstance(one, str) for one in constraint):
            raise InvalidRequest(f"{param} is {json_kind(constraint)}; it must be an array of strings", param=param)
        return StructuredOutputs(choice=StructuredOutputs.Choice(options=constraint))
    if kind == "json_object":
        if not isinstance(constraint, bool):
            raise InvalidRequest(f"{param} is {json_kind(constraint)}; it must be a boolean", param=param)
        return StructuredOutputs(json_object=constraint)
    if not isinstance(constraint, str):
        raise InvalidRequest(f"{param} is {json_kind(constraint)}; it must be a string", param=param)
    asked = StructuredOutputs()
    setattr(asked, kind, constraint)
    return asked


def _schema_text(schema: object, param: str) -> str:
    if not isinstance(schema, dict):
        raise InvalidRequest(f"{param} is {json_kind(schema)}; it must be a JSON object", param=param)
    return msgspec.json.encode(schema).decode()


def _shown(value: object) -> str:
    return repr(value[:40]) if isinstance(value, str) else json_kind(value)
