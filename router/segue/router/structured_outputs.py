"""What a constraint on the answer's text must look like before a worker sees it. Pure; both edges apply it.

Whether an engine can keep to a constraint only the engine knows; it refuses what it can't
(``engine/vllm_translate.py``).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from segue.base.errors import InvalidRequest
from segue.proto.sampling_pb2 import SamplingParams, StructuredOutputs
from segue.router.limits import Limits, check_depth

PARAM = "structured_outputs"
KINDS = tuple(field.name for field in StructuredOutputs.DESCRIPTOR.fields)
_JSON_TEXTS = ("json_schema", "structural_tag")


def check_structured_outputs(sampling: SamplingParams, limits: Limits, param: str = PARAM) -> None:
    """Check the constraint, if there is one. ``param`` is what the client calls it.

    Raises InvalidRequest: there is no constraint in it, or it is empty, over a limit or not the JSON it should be.
    """
    if not sampling.HasField("structured_outputs"):
        return
    asked = sampling.structured_outputs
    kind = asked.WhichOneof("constraint")
    if kind is None:
        raise InvalidRequest(f"{param} holds no constraint; set one of {', '.join(KINDS)}", param=param)
    if kind == "json_object":
        if not asked.json_object:
            raise InvalidRequest(f"{param}.json_object is false; leave {param} out instead", param=param)
    elif kind == "choice":
        _check_choice(asked.choice.options, limits, param)
    else:
        _check_text(kind, getattr(asked, kind), limits, param)


def _check_choice(options: Sequence[str], limits: Limits, param: str) -> None:
    if not 1 <= len(options) <= limits.max_choices:
        raise InvalidRequest(
            f"{param}.choice holds {len(options)} texts; it must hold between 1 and {limits.max_choices}", param=param
        )
    if not all(options):
        raise InvalidRequest(f"{param}.choice holds an empty text; each needs at least one character", param=param)
    size_bytes = sum(len(option.encode()) for option in options)
    _check_size("choice", size_bytes, limits.max_constraint_bytes, param)


def _check_text(kind: str, text: str, limits: Limits, param: str) -> None:
    if not text.strip() and kind != "regex":
        raise InvalidRequest(f"{param}.{kind} is empty; leave {param} out instead", param=param)
    if "\x00" in text:
        raise InvalidRequest(f"{param}.{kind} holds a NUL character, which no answer can; leave it out", param=param)
    if kind == "regex" and len(text) > limits.max_regex_chars:
        raise InvalidRequest(
            f"{param}.regex has {len(text)} characters; at most {limits.max_regex_chars} are taken", param=param
        )
    _check_size(kind, len(text.encode()), limits.max_constraint_bytes, param)
    if kind in _JSON_TEXTS:
        _check_json(kind, text, limits, param)


def _check_size(kind: str, size_bytes: int, most: int, param: str) -> None:
    if size_bytes > most:
        raise InvalidRequest(f"{param}.{kind} has {size_bytes} bytes; at most {most} are taken", param=param)


def _check_json(kind: str, text: str, limits: Limits, param: str) -> None:
    where = f"{param}.{kind}"
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"{where} is not valid JSON: {error}", param=param) from error
    except RecursionError as error:
        raise InvalidRequest(
            f"{where} is nested more than {limits.max_json_depth} levels deep; at most that many are taken",
            param=param,
        ) from error
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where} is JSON, but no object; it must be one", param=param)
    check_depth(value, limits.max_json_depth, where, param)
