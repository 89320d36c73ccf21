"""What the client takes and gives, and the messages it makes of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any

from segue.proto.inference_pb2 import ChatMessage, ChatMessages, GenerateRequest, TokenIds
from segue.proto.sampling_pb2 import FinishReason, SamplingParams

Prompt = str | Sequence[int] | Sequence[Mapping[str, str]]
"""Text, token ids, or chat messages (``{"role": ..., "content": ...}``)."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What came of one choice since its last delta. ``finish_reason`` is "stop" or "length" on a choice's last."""

    index: int
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str | None


# Keyword arguments that are the request's own fields.
_TERMS = frozenset({"slo_class", "priority", "tenant", "explain"})


def build_request(prompt: Prompt, model: str, n: int, sampling: Mapping[str, Any]) -> GenerateRequest:
    terms = {name: value for name, value in sampling.items() if name in _TERMS}
    own = {name: value for name, value in sampling.items() if name not in _TERMS}
    request = GenerateRequest(model=model, n=n, sampling=SamplingParams(**own), **terms)
    if isinstance(prompt, str):
        request.text = prompt
    elif len(prompt) and isinstance(prompt[0], Mapping):
        request.chat.CopyFrom(ChatMessages(messages=[_message(message) for message in prompt]))
    else:
        # numpy's integers too; anything else, even a float of whole value, is a TypeError rather than left out.
        request.token_ids.CopyFrom(TokenIds(ids=[index(token_id) for token_id in prompt]))  # type: ignore[arg-type]
    return request


def _message(message: object) -> ChatMessage:
    if not isinstance(message, Mapping):
        raise TypeError(f"a chat prompt holds messages only; one of them is {message!r}")
    return ChatMessage(**message)


def finish_reason(reason: FinishReason) -> str | None:
    if not reason:
        return None
    return FinishReason.Name(reason).removeprefix("FINISH_REASON_").lower()
