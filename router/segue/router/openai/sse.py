"""Server-sent events: a stream's chunks as bytes, and errors in OpenAI's shape.

The event of a plain text delta is built from constant parts and one JSON string, in about a microsecond:
a router writes one for every token of every stream.
"""

from __future__ import annotations

from collections.abc import Sequence

from segue.base.errors import SegueError
from segue.proto.inference_pb2 import ChoiceDelta
from segue.router.openai import wire
from segue.router.text.offsets import TextOffsets
from segue.router.text.tokenizer import TextCodec

DONE = b"data: [DONE]\n\n"


def event(chunk: wire.Json) -> bytes:
    """One event with a JSON object."""
    return b"data: " + wire.encode(chunk) + b"\n\n"


def error_json(error: SegueError) -> wire.Json:
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def error_body(error: SegueError) -> bytes:
    """The body of a failed request."""
    return wire.encode(error_json(error))


def error_event(error: SegueError) -> bytes:
    """The event that ends a stream that failed after it had begun; [DONE] doesn't follow."""
    return event(error_json(error))


class ChunkEncoder:
    """Encodes one stream's chunks. Keeps, for each choice, whether it has begun and where its tokens begin."""

    def __init__(self, head: wire.Head, codec: TextCodec, *, choices: int, logprobs: bool, include_usage: bool) -> None:
        self._head = head
        self._codec = codec
        self._wants_logprobs = logprobs
        self._include_usage = include_usage
        self._begun = [not head.chat] * choices
        self._text_offsets = [TextOffsets(codec) for _ in range(choices)]
        self._parts = [self._constant_parts(index) for index in range(choices)]

    def delta(self, index: int, delta: ChoiceDelta, *, extra: wire.Json | None = None) -> bytes:
        """The events of what one step gave choice ``index``; empty if there is nothing to show yet.

        ``extra`` goes into the last event as top-level fields.
        """
        opening = b"" if self._begun[index] else self._role(index)
        if not self._wants_logprobs and not delta.finish_reason:
            text = delta.text
            if not text:
                return opening
            before, after = self._parts[index]
            return opening + before + wire.encode(text) + after
        return opening + event(self._full(index, delta) | (extra or {}))

    def text(self, index: int, text: str) -> bytes:
        """The event of nothing but text, for a choice that has begun."""
        before, after = self._parts[index]
        return b"%b%b%b" % (before, wire.encode(text), after)

    @property
    def parts(self) -> Sequence[tuple[bytes, bytes]]:
        """For each choice, what stands before and after the JSON string in the event of nothing but text."""
        return self._parts

    def usage(self, usage: wire.Json, segue: wire.Json) -> bytes:
        """The last event where usage was asked for."""
        return event(self._head.object(chunk=True) | {"choices": [], "usage": usage, "segue": segue})

    def _role(self, index: int) -> bytes:
        self._begun[index] = True
        return event(self._chunk(index, {"role": "assistant", "content": ""}))

    def _full(self, index: int, delta: ChoiceDelta) -> wire.Json:
        head = self._head
        content = {"content": delta.text} if delta.text else {}
        chunk = self._chunk(index, content if head.chat else delta.text)
        choice = chunk["choices"][0]
        choice["finish_reason"] = wire.finish_reason(delta)
        if delta.finish_reason:
            choice["stop_reason"] = wire.stop_reason(delta)
        if self._wants_logprobs and delta.logprobs:
            choice["logprobs"] = self._logprobs(index, delta)
        return chunk

    def _logprobs(self, index: int, delta: ChoiceDelta) -> wire.Json:
        if self._head.chat:
            return wire.chat_logprobs(self._codec, delta.logprobs)
        return wire.completion_logprobs(self._codec, delta.logprobs, self._text_offsets[index])

    def _chunk(self, index: int, content: str | wire.Json) -> wire.Json:
        body = {"delta": content} if self._head.chat else {"text": content}
        choice = {"index": index, **body, "logprobs": None, "finish_reason": None}
        # OpenAI sends a null where the usage will follow in a chunk of its own.
        return self._head.object(chunk=True) | {"choices": [choice]} | ({"usage": None} if self._include_usage else {})

    def _constant_parts(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and after the text in the event of a plain delta."""
        mark = "\x00"  # encoded as six characters that can't be part of the rest: ids and names have no NUL
        encoded = event(self._chunk(index, {"content": mark} if self._head.chat else mark))
        before, after = encoded.split(wire.encode(mark))
        return before, after
