"""Token ids to text as they come, without ever splitting a character.

The pieces of one answer, joined, are what decoding all its ids at once gives, special tokens left out, up to the last
token behind which the text doesn't end in U+FFFD. What is held back from there on when the answer ends, a character
that ``max_tokens`` cut off, is dropped: it is text that the model has not written. vLLM's detokeniser does the same
(``DecodeStream`` of tokenizers, which tests compare with).
"""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence
from typing import Protocol

from segue.router.text.tokenizer import TextCodec


class Detokenizer(Protocol):
    """One answer's text as it grows."""

    def push(self, token_ids: Sequence[int]) -> str:
        """The text that is certain after these further ids. A token whose text ends inside a character is held back."""

    def push_one(self, token_id: int) -> str:
        """The same for one id, as cheaply as can be."""


def new_detokenizer(codec: TextCodec, context: Sequence[int] = ()) -> Detokenizer:
    """A detokenizer for an answer to the prompt ``context``.

    Tokenizers of the SentencePiece family drop the space before the first word they decode; with the
    prompt's ids as context it is kept, as vLLM does.
    """
    if codec.is_byte_level:
        return ByteLevelDetokenizer(codec.output_bytes, codec.output_texts)
    return WindowDetokenizer(codec, context)


class ByteLevelDetokenizer:
    """For byte-level tokenizers, where every token is some bytes: a table and a UTF-8 decoder."""

    __slots__ = ("_held", "_pending", "_table", "_texts")

    def __init__(self, table: Sequence[bytes], texts: Sequence[str | None] = ()) -> None:
        """``texts`` has the text of tokens that are whole characters, to spare decoding them; None for others."""
        self._table = table
        self._texts = texts
        self._pending = b""  # The beginning of a character.
        self._held = ""  # The text before it that has yet to be shown.

    def push_one(self, token_id: int) -> str:
        if not self._pending and not self._held and token_id < len(self._texts):
            text = self._texts[token_id]
            if text is not None:
                return text
        return self.push((token_id,))

    def push(self, token_ids: Sequence[int]) -> str:
        table = self._table
        try:
            parts = [table[id_] for id_ in token_ids]
        except IndexError:  # outside the vocabulary: nothing, as in Tokenizer.decode
            parts = [table[id_] for id_ in token_ids if id_ < len(table)]
        if not self._pending and not self._held:
            data = b"".join(parts)
            text, used = utf_8_decode(data, "replace", False)
            if used == len(data) and not text.endswith("\ufffd"):
                return text
        return "".join([self._push_one(data) for data in parts])

    def _push_one(self, data: bytes) -> str:
        data = self._pending + data
        text, used = utf_8_decode(data, "replace", False)
        self._pending = data[used:]
        text = self._held + text
        if self._pending or text.endswith("\ufffd"):
            self._held = text
            return ""
        self._held = ""
        return text


class WindowDetokenizer:
    """For all other tokenizers: decodes a window of the newest ids behind some context, and takes what
    was added.

    The method of tokenizers' DecodeStream, which can't flush what it holds back. With byte fallback,
    text that was sent can't be taken back when a later byte makes the run of bytes before it invalid;
    decoding at once would.
    """

    __slots__ = ("_codec", "_context_len", "_context_text", "_window")

    # A run of tokens this long whose text still ends in U+FFFD is not one character: don't wait for more.
    _MAX_HELD = 16

    def __init__(self, codec: TextCodec, context: Sequence[int] = ()) -> None:
        self._codec = codec
        special = codec.special_token_ids
        # Decoding looks only a few tokens back; the whole prompt would cost milliseconds.
        self._window = [id_ for id_ in context[-64:] if id_ not in special][-8:]
        self._context_len = len(self._window)
        self._context_text = codec.decode(self._window)

    def push(self, token_ids: Sequence[int]) -> str:
        special = self._codec.special_token_ids
        return "".join([self._push_one(id_) for id_ in token_ids if id_ not in special])

    def push_one(self, token_id: int) -> str:
        return self.push((token_id,))

    def _push_one(self, token_id: int) -> str:
        self._window.append(token_id)
        text = self._codec.decode(self._window)
        if text.endswith("\ufffd") and len(self._window) - self._context_len < self._MAX_HELD:
            return ""
        return self._take(text)

    def _take(self, text: str) -> str:
        """What ``text``, the window decoded, adds to the context's; the new ids become the context."""
        if text.startswith(self._context_text):
            added = text[len(self._context_text) :]
        else:
            # The new ids changed how the context reads (broken bytes): take them by themselves.
            added = self._codec.decode(self._window[self._context_len :])
        if added:
            self._window = self._window[self._context_len :]
            self._context_len = len(self._window)
            self._context_text = self._codec.decode(self._window)
        return added
