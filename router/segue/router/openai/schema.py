"""The OpenAI requests that Segue reads, strictly typed: a string is no number, a float no integer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from segue.base.errors import InvalidRequest
from segue.router.openai.fields import json_kind, readable_fields

UInt32 = Annotated[int, Field(ge=0, le=2**32 - 1)]
Int32 = Annotated[int, Field(ge=-(2**31), le=2**31 - 1)]
Int64 = Annotated[int, Field(ge=-(2**63), le=2**63 - 1)]

MESSAGE_FIELDS = ("role", "content")
# Hints, or what clients send back as they got it; none reaches a chat template here.
MESSAGE_IGNORED = frozenset({"name", "refusal", "annotations", "tool_call_id"})


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class StreamOptions(_Strict):
    include_usage: bool | None = False
    include_obfuscation: bool | None = False  # Ignored: it pads chunks against traffic analysis and is optional.


@dataclass(frozen=True, slots=True)
class Message:
    """``content`` is text; an array of text parts has been joined."""

    role: str
    content: str


class _Sampling(_Strict):
    """What completions and chat completions share."""

    model: str = ""
    temperature: float | None = None
    top_p: float | None = None
    top_k: Int32 | None = None
    min_p: float | None = None
    seed: Int64 | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[UInt32] | None = None
    max_tokens: UInt32 | None = None
    min_tokens: UInt32 | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    ignore_eos: bool | None = None
    response_format: dict[str, Any] | None = None
    structured_outputs: dict[str, Any] | None = None
    n: int = 1
    best_of: int | None = None
    echo: bool = False
    stream: bool = False
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options is only for stream=true; leave it out", param="stream_options")
        if self.best_of is not None and self.best_of != self.n:
            raise InvalidRequest(
                f"best_of is {self.best_of}, n is {self.n}; choosing the best of several answers "
                "is not supported; leave best_of out",
                param="best_of",
                code="unsupported_parameter",
            )
        return self


class CompletionRequest(_Sampling):
    """POST /v1/completions. ``prompt`` is a tuple of prompts, each text or token ids."""

    prompt: tuple[str | tuple[int, ...], ...]
    logprobs: UInt32 | None = None

    @field_validator("prompt", mode="plain")
    @classmethod
    def _prompts(cls, value: object) -> tuple[str | tuple[int, ...], ...]:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list):
            if _are_ids(value):
                return (tuple(value),)
            if all(isinstance(one, str) for one in value):
                return tuple(value)
            if all(isinstance(one, list) and _are_ids(one) for one in value):
                return tuple(tuple(one) for one in value)
        raise InvalidRequest(
            f"prompt is {json_kind(value)} of another shape; it must be a string, an array of strings, an "
            "array of token ids (integers from 0 on), or an array of such arrays",
            param="prompt",
        )

    @model_validator(mode="after")
    def _no_prompt_logprobs(self) -> Self:
        if self.echo and self.logprobs is not None:
            raise InvalidRequest(
                "logprobs with echo means the prompt's logprobs too, which aren't supported; leave one out",
                param="logprobs",
                code="unsupported_parameter",
            )
        return self


class ChatCompletionRequest(_Sampling):
    """POST /v1/chat/completions."""

    messages: tuple[Message, ...]
    max_completion_tokens: UInt32 | None = None
    logprobs: bool = False
    top_logprobs: UInt32 | None = None

    @field_validator("messages", mode="plain")
    @classmethod
    def _messages(cls, value: object) -> tuple[Message, ...]:
        if not isinstance(value, list):
            raise InvalidRequest(f"messages is {json_kind(value)}; it must be an array of messages", param="messages")
        return tuple(_message(one, f"messages[{index}]") for index, one in enumerate(value))

    @model_validator(mode="after")
    def _chat_only(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs=true", param="top_logprobs")
        if self.echo:
            raise InvalidRequest("echo is for completions, not for chat; leave it out", param="echo")
        return self


RequestT = TypeVar("RequestT", CompletionRequest, ChatCompletionRequest)


def parse(kind: type[RequestT], body: object) -> RequestT:
    """Check a decoded JSON body against ``kind``. Raises InvalidRequest naming the first field at fault."""
    fields = readable_fields(body, kind.model_fields)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from error


def _invalid(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_context=False)[0]
    param = _param(first["loc"])
    if first["type"] == "missing":
        return InvalidRequest(f"{param} is missing; it is required", param=param)
    return InvalidRequest(f"{param} is {_shown(first['input'])}: {first['msg']}", param=param)


def _param(location: tuple[int | str, ...]) -> str:
    """``("stop", "list[str]", 0)`` as ``stop[0]``: the names of a union's members are left out."""
    param = ""
    for step in location:
        if isinstance(step, int):
            param += f"[{step}]"
        elif step.isidentifier() and step not in {"str", "int"}:
            param += f".{step}" if param else step
    return param


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{json_kind(value)} {text[:40]}..."


def _are_ids(value: list[Any]) -> bool:
    # By exact type: True and False are ints to isinstance. An empty array is an empty prompt, refused later.
    return all(type(one) is int and 0 <= one < 2**32 for one in value)


def _message(value: object, where: str) -> Message:
    if isinstance(value, dict):
        value = {name: field for name, field in value.items() if name not in MESSAGE_IGNORED}
    fields = readable_fields(value, MESSAGE_FIELDS, where)
    role = fields.get("role")
    if not isinstance(role, str):
        raise InvalidRequest(f"{where}.role is {json_kind(role)}; it must be a string", param=f"{where}.role")
    return Message(role, _text(fields.get("content", ""), f"{where}.content"))


def _text(content: object, where: str) -> str:
    """Text parts joined by line breaks, as vLLM does for templates that take strings."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise InvalidRequest(
            f"{where} is {json_kind(content)}; it must be a string or an array of text parts", param=where
        )
    return "\n".join(_part_text(part, f"{where}[{index}]") for index, part in enumerate(content))


def _part_text(part: object, where: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    text = part.get("text") if isinstance(part, dict) else None
    if kind == "text" and isinstance(text, str):
        return text
    if kind == "text" or not isinstance(kind, str):
        raise InvalidRequest(f'{where} must be an object like {{"type": "text", "text": "..."}}', param=where)
    raise InvalidRequest(
        f"{where} is of type {kind[:40]!r}, which is not supported; only text is",
        param=where,
        code="unsupported_parameter",
    )
