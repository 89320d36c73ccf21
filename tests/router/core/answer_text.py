"""The text of an answer in a small alphabet, found by search: what the client has to get of it."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence
from functools import cache

from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.sampling_pb2 import FinishReason, PositionLogprobs, TokenLogprob
from segue.router.text.tokenizer import TextCodec

PROMPT = (7, 8, 9)
EOS = 1
STOP, LENGTH = FinishReason.FINISH_REASON_STOP, FinishReason.FINISH_REASON_LENGTH


@cache
def tiny_codec() -> TextCodec:
    return TextCodec.load(str(ensure_embedded_model()))


@cache
def alphabet() -> dict[int, bytes]:
    """Token ids of a few letters, and of the two halves of one character."""
    by_bytes = {value: id_ for id_, value in enumerate(tiny_codec().output_bytes) if value}
    return {by_bytes[value]: value for value in (b"a", b"b", b"c", b"\xc3", b"\xa9")}


def logprob(token_id: int) -> PositionLogprobs:
    return PositionLogprobs(sampled=TokenLogprob(token_id=token_id, logprob=-0.5, rank=1))


def readable(tokens: Sequence[int]) -> str:
    """Text of the tokens, without the beginning of a character that hasn't ended."""
    for count in range(len(tokens), 0, -1):
        data = b"".join(alphabet()[token] for token in tokens[:count])
        text, used = utf_8_decode(data, "replace", False)
        if used == len(data) and not text.endswith("\ufffd"):
            return text
    return ""


def expected(
    tokens: Sequence[int], stops: Sequence[str], min_tokens: int, finish: FinishReason
) -> tuple[int, str, str | None]:
    """By search in the whole text: how many tokens the client gets, its text, and the stop string that ended it."""
    words = tokens[:-1] if finish == STOP else tokens
    for count in range(min_tokens + 1, len(words) + 1):
        text = readable(words[:count])
        before = len(readable(words[: count - 1]))
        for end in range(before + 1, len(text) + 1):
            for stop in stops:
                if text[:end].endswith(stop):
                    return count, text[: end - len(stop)], stop
    return len(tokens), readable(words), None
