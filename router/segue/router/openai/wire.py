"""The JSON objects of OpenAI's responses, and the figures in them, from ``segue.v1`` messages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse, Path, Timings, Usage
from segue.proto.sampling_pb2 import FinishReason, PositionLogprobs, TokenLogprob
from segue.router.text.offsets import TextOffsets
from segue.router.text.tokenizer import TextCodec

Json = dict[str, Any]

encode = msgspec.json.Encoder().encode

_FINISH_REASONS = {
    FinishReason.FINISH_REASON_UNSPECIFIED: None,
    FinishReason.FINISH_REASON_STOP: "stop",
    FinishReason.FINISH_REASON_LENGTH: "length",
    FinishReason.FINISH_REASON_ABORT: "abort",
    FinishReason.FINISH_REASON_ERROR: "error",
}


_TIMINGS = tuple(field.name for field in Timings.DESCRIPTOR.fields)
_TIMINGS_S = tuple(name for name in _TIMINGS if isinstance(getattr(Timings(), name), float))
_PATHS = {number: name.removeprefix("PATH_").lower() for name, number in Path.items()}


@dataclass(frozen=True, slots=True)
class Head:
    """What all objects of one response share."""

    id: str
    model: str
    created_unix_s: int
    chat: bool

    def object(self, *, chunk: bool) -> Json:
        """A response without choices."""
        kind = ("chat.completion.chunk" if chunk else "chat.completion") if self.chat else "text_completion"
        return {"id": self.id, "object": kind, "created": self.created_unix_s, "model": self.model}


def finish_reason(delta: ChoiceDelta) -> str | None:
    return _FINISH_REASONS[delta.finish_reason]


def stop_reason(delta: ChoiceDelta) -> str | int | None:
    """The stop string or stop token that ended the answer (an extension of vLLM's)."""
    which = delta.WhichOneof("stop_reason")
    if which is None:
        return None
    return delta.stop_string if which == "stop_string" else delta.stop_token_id


def usage(figures: Sequence[Usage]) -> Json:
    """The sum over the prompts of a request."""
    prompt = sum(one.prompt_tokens for one in figures)
    output = sum(one.output_tokens for one in figures)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": output,
        "total_tokens": prompt + output,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_prompt_tokens for one in figures)},
    }


def segue_field(last: Sequence[GenerateResponse]) -> Json:
    """The extra field ``segue``: how the request was carried out and what it cost; with several prompts, each of them.

    ``last`` has each prompt's last response.
    """
    entries = [_segue_entry(one) for one in last]
    return entries[0] if len(entries) == 1 else {**entries[0], "prompts": entries}


def _segue_entry(last: GenerateResponse) -> Json:
    entry: Json = {"request_id": last.request_id, "timings": timings_json(last.timings)}
    if last.HasField("cost"):
        entry["cost"] = _fields(last.cost)
    if last.HasField("decision"):
        entry["decision"] = MessageToDict(last.decision, preserving_proto_field_name=True)
    return entry


def timings_json(timings: Timings) -> Json:
    """Every field by its name; seconds to the microsecond, the path as ``seeded``, ``exact``, ..."""
    values: Json = {name: getattr(timings, name) for name in _TIMINGS}
    for name in _TIMINGS_S:
        values[name] = round(values[name], 6)
    values["path"] = _PATHS[timings.path]
    values["continuations"] = [_fields(continuation) for continuation in timings.continuations]
    return values


def _fields(message: Message) -> Json:
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}


def completion_logprobs(codec: TextCodec, positions: Sequence[PositionLogprobs], offsets: TextOffsets) -> Json:
    """The completions API's shape. ``offsets`` has taken the answer's earlier tokens."""
    tokens = [codec.token_text(one.sampled.token_id) for one in positions]
    return {
        "text_offset": [offsets.take(one.sampled.token_id) for one in positions],
        "token_logprobs": [_logprob(one.sampled) for one in positions],
        "tokens": tokens,
        # The sampled token is always among them, so there may be one more than was asked for.
        "top_logprobs": [
            {codec.token_text(one.token_id): _logprob(one) for one in (position.sampled, *position.top)}
            for position in positions
        ],
    }


def chat_logprobs(codec: TextCodec, positions: Sequence[PositionLogprobs]) -> Json:
    """The chat API's shape."""
    return {
        "content": [
            {
                **_chat_token(codec, position.sampled),
                "top_logprobs": [_chat_token(codec, one) for one in position.top],
            }
            for position in positions
        ],
        "refusal": None,
    }


def _chat_token(codec: TextCodec, token: TokenLogprob) -> Json:
    return {
        "token": codec.token_text(token.token_id),
        "logprob": _logprob(token),
        "bytes": list(codec.token_bytes(token.token_id)),
    }


def _logprob(token: TokenLogprob) -> float:
    # JSON has no -inf; OpenAI and vLLM send this instead.
    return token.logprob if math.isfinite(token.logprob) else -9999.0
