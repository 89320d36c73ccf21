"""Where in an answer's text each of its tokens begins."""

from __future__ import annotations

from codecs import getincrementaldecoder

from segue.router.text.tokenizer import TextCodec


class TextOffsets:
    """For one answer. A token that goes on with a character begins where that character does.

    Special tokens are no text. Tokenizers of the SentencePiece family may drop the space in front of an answer's first
    word, which is counted here.
    """

    __slots__ = ("_chars", "_codec", "_decoder")

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._chars = 0

    def take(self, token_id: int) -> int:
        """Where this token begins, in characters; it is the next one of the answer."""
        begins = self._chars
        if token_id not in self._codec.special_token_ids:
            self._chars += len(self._decoder.decode(self._codec.token_bytes(token_id)))
        return begins
