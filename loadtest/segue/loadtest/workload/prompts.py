"""Prompts of exact length: token ids, or words that are one token each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from segue.loadtest.workload.requests import MIN_BLOCK_TOKENS
from segue.loadtest.workload.shape import Segment

if TYPE_CHECKING:
    from segue.router.text.tokenizer import TextCodec

_WORD = re.compile(r" [A-Za-z]+")
# Four of 256 tell 4,294,967,296 segments apart; more than 4096 are of no use.
_MIN_WORDS, _MAX_WORDS = 256, 4096


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that prompts are made of. ``texts`` says each one as text; None: only ids can be sent."""

    token_ids: NDArray[np.uint32]
    texts: tuple[str, ...] | None = None


# Every tokenizer in use has these, and none of them is special there.
PLAIN = Vocabulary(np.arange(300, 1324, dtype=np.uint32))


def vocabulary_of(codec: TextCodec) -> Vocabulary:
    """Words of ``codec``'s vocabulary that stay one token whatever stands before and after them.

    Raises ValueError when there are too few to make prompts of.
    """
    words = []
    for token_id in range(codec.vocab_size):
        text = codec.token_bytes(token_id).decode("ascii", "replace")
        if _WORD.fullmatch(text) and token_id not in codec.special_token_ids:
            words.append((token_id, text))
        if len(words) == 2 * _MAX_WORDS:
            break
    kept = _steady(codec, words)[:_MAX_WORDS]
    if len(kept) < _MIN_WORDS:
        raise ValueError(
            f"the tokenizer of {codec.model!r} has {len(kept)} words that are one token each; prompts of exact length "
            f"need {_MIN_WORDS}: send token ids (completions) instead"
        )
    return Vocabulary(np.array([word[0] for word in kept], np.uint32), tuple(word[1] for word in kept))


def _steady(codec: TextCodec, words: Sequence[tuple[int, str]]) -> list[tuple[int, str]]:
    """Those that come back alone and after another word."""
    if not words:
        return []
    before_id, before = words[0]
    encoded = codec.tokenizer.encode_batch([before + text + before for _, text in words], add_special_tokens=False)
    return [word for word, found in zip(words, encoded, strict=True) if found.ids == [before_id, word[0], before_id]]


@dataclass(frozen=True)
class PromptMaker:
    """Segments to prompts. The same seed, vocabulary and segments give the same prompt in any process."""

    vocabulary: Vocabulary
    seed: int = 0

    def token_ids(self, segments: Sequence[Segment]) -> list[int]:
        """As many ids as the segments say."""
        ids: list[int] = self.vocabulary.token_ids[self._places(segments)].tolist()
        return ids

    def text(self, segments: Sequence[Segment]) -> str:
        """Text that the vocabulary's tokenizer makes as many tokens of; it begins with a space.

        Raises ValueError for a vocabulary without texts.
        """
        texts = self.vocabulary.texts
        if texts is None:
            raise ValueError("prompts as text need a tokenizer: name the model's folder or hub id with --tokenizer")
        return "".join([texts[place] for place in self._places(segments)])

    def _places(self, segments: Sequence[Segment]) -> NDArray[np.int64]:
        return np.concatenate([self._segment(segment) for segment in segments])

    def _segment(self, segment: Segment) -> NDArray[np.int64]:
        """First the name, as digits, lowest first: segments of different names differ at once. Then noise."""
        size = len(self.vocabulary.token_ids)
        name, digits = segment.name, []
        for _ in range(MIN_BLOCK_TOKENS):
            name, digit = divmod(name, size)
            digits.append(digit)
        noise = np.random.default_rng((self.seed, segment.name)).integers(
            size, size=max(0, segment.tokens - MIN_BLOCK_TOKENS)
        )
        return np.concatenate([np.array(digits[: segment.tokens], np.int64), noise])
