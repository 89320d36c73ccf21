"""A prompt as clients write it, and the one way in which both edges turn it into token ids."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from segue.base.errors import InvalidRequest
from segue.router.text.tokenizer import TextCodec

# Longer texts are tokenised on a thread, so that they don't hold up the streams: 4,096 characters take
# some 2 ms.
_INLINE_CHARS = 4096


@dataclass(frozen=True, slots=True)
class TextPrompt:
    text: str


@dataclass(frozen=True, slots=True)
class TokenPrompt:
    token_ids: Sequence[int]


@dataclass(frozen=True, slots=True)
class ChatPrompt:
    messages: Sequence[Mapping[str, str]]  # role and content


Prompt = TextPrompt | TokenPrompt | ChatPrompt


def prompt_bytes(prompt: Prompt) -> int:
    """The size of a prompt's text, as UTF-8; 0 for token ids."""
    if isinstance(prompt, TextPrompt):
        return len(prompt.text.encode())
    if isinstance(prompt, ChatPrompt):
        return sum(len(text.encode()) for message in prompt.messages for text in message.values())
    return 0


async def read_prompt(codec: TextCodec, prompt: Prompt, *, max_model_len_tokens: int) -> Sequence[int]:
    """The prompt's token ids.

    Raises InvalidRequest if the chat template refuses, or if the text can't possibly fit the model
    (which is then known without tokenising it).
    """
    if isinstance(prompt, TokenPrompt):
        return prompt.token_ids
    chat = isinstance(prompt, ChatPrompt)
    text = codec.render_chat(prompt.messages) if isinstance(prompt, ChatPrompt) else prompt.text
    _check_can_fit(codec, text, max_model_len_tokens, param="messages" if chat else "prompt")
    if len(text) <= _INLINE_CHARS:
        return tuple(codec.encode(text, add_special_tokens=not chat))
    return tuple(await asyncio.to_thread(codec.encode, text, not chat))


def _check_can_fit(codec: TextCodec, text: str, max_model_len_tokens: int, *, param: str) -> None:
    per_token = codec.max_bytes_per_token
    if per_token is None or len(text) <= max_model_len_tokens:
        return
    at_least = -(-len(text.encode()) // per_token)
    if at_least > max_model_len_tokens:
        raise InvalidRequest(
            f"the prompt is at least {at_least} tokens ({len(text)} characters), but the model takes "
            f"{max_model_len_tokens} tokens, prompt and answer together; shorten the prompt",
            param=param,
            code="context_length_exceeded",
        )
