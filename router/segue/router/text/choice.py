"""One answer's text from its token ids: detokenised, cut at stop strings."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import NamedTuple

from segue.router.text.detokenizer import Detokenizer, new_detokenizer
from segue.router.text.stop import StopMatcher
from segue.router.text.tokenizer import TextCodec


class Piece(NamedTuple):
    """What a push added to the answer.

    ``kept_tokens`` of the pushed tokens belong to it: fewer than all only where a stop string ended it early.
    ``stop`` is that stop string; after it, push and finish must not be called again.
    """

    text: str
    stop: str | None
    kept_tokens: int


class ChoiceText:
    """The text of one choice. Not thread-safe; about 1 us a token without stop strings."""

    __slots__ = ("_detokenizer", "_matcher", "_min_tokens", "_tokens", "push_plain")

    def __init__(
        self, codec: TextCodec, *, stops: Sequence[str] = (), min_tokens: int = 0, prompt: Sequence[int] = ()
    ) -> None:
        """Stop strings that are completed within the first ``min_tokens`` tokens are ignored, as in vLLM."""
        self._detokenizer: Detokenizer = new_detokenizer(codec, prompt)
        # What one token that doesn't end the answer adds. Only where ``plain``.
        self.push_plain: Callable[[int], str] = self._detokenizer.push_one
        self._matcher = StopMatcher(stops) if stops else None
        self._min_tokens = min_tokens
        self._tokens = 0

    def push(self, token_ids: Sequence[int], *, ends_with_stop_token: bool = False) -> Piece:
        """Take the next tokens. A stop token (EOS or one of stop_token_ids) that ended the answer counts
        as a token but is not text: say so with ``ends_with_stop_token``."""
        readable = token_ids[:-1] if ends_with_stop_token else token_ids
        matcher = self._matcher
        if matcher is None:
            return Piece(self._detokenizer.push(readable), None, len(token_ids))
        return self._push_matched(matcher, readable, len(token_ids))

    @property
    def plain(self) -> bool:
        """Whether text is all there is to it: there are no stop strings to look for."""
        return self._matcher is None

    def finish(self) -> str:
        """The rest of the text once no more tokens come: what might have become a stop string."""
        return "" if self._matcher is None else self._matcher.finish()

    def _push_matched(self, matcher: StopMatcher, readable: Sequence[int], count: int) -> Piece:
        push = self._detokenizer.push
        parts = [push((id_,)) for id_ in readable]
        ends = [0]  # where the text of each token ends within the pushed text
        for part in parts:
            ends.append(ends[-1] + len(part))
        text = "".join(parts)
        exempt_tokens = min(max(self._min_tokens - self._tokens, 0), len(parts))
        self._tokens += count
        exempt_chars = len(text) if self._tokens <= self._min_tokens else ends[exempt_tokens]
        released = matcher.push(text, exempt_chars)
        if matcher.match is None:
            return Piece(released, None, count)
        return Piece(released, matcher.match.stop, bisect_left(ends, matcher.match.end, lo=1))
