"""What one answer has so far: its tokens and their text, and what its client is given of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from segue.proto.inference_pb2 import ChoiceDelta
from segue.proto.sampling_pb2 import (
    FINISH_REASON_STOP,
    FINISH_REASON_UNSPECIFIED,
    FinishReason,
    PositionLogprobs,
)
from segue.proto.worker_pb2 import RequestOutput
from segue.router.text.choice import ChoiceText


class Sampled(NamedTuple):
    """Tokens of one engine step, with their logprobs if they were asked for."""

    token_ids: Sequence[int]
    logprobs: Sequence[PositionLogprobs]

    @classmethod
    def of(cls, output: RequestOutput) -> Sampled:
        return cls(output.token_ids, output.logprobs)

    def before(self, end: int) -> Sampled:
        return self if end >= len(self.token_ids) else Sampled(self.token_ids[:end], self.logprobs[:end])

    def behind(self, begin: int) -> Sampled:
        return Sampled(self.token_ids[begin:], self.logprobs[begin:]) if begin else self


class AnswerTokens:
    """``ids`` are all tokens that were sampled; ``kept`` how many of them are the client's, which are fewer only where
    a stop string ended the answer. ``plain``: nothing but text is to come of a token now, so that it may take the short
    way, :meth:`push_plain`; whoever knows the answer's workers says so with :meth:`may_be_plain`.
    """

    __slots__ = ("_index", "_text", "_to_replay", "ids", "kept", "plain")

    def __init__(self, index: int, text: ChoiceText) -> None:
        self._index = index
        self._text = text
        self._to_replay = 0
        self.ids: list[int] = []
        self.kept = 0
        self.plain = False

    def push_plain(self, token_id: int) -> str | None:
        """One token of the present decode leg and nothing with it: the text it adds, to be shown as it is.

        The short way of :meth:`take`, for most tokens of an answer; None, and nothing has happened, where the long one
        must be taken.
        """
        if not self.plain:
            return None
        self.ids.append(token_id)
        self.kept += 1
        return self._text.push_plain(token_id)

    def may_be_plain(self) -> None:
        """Decode has begun; from here on its tokens are nothing but tokens."""
        self.plain = not self._to_replay and self._text.plain

    def expect_replay(self, *, whole: bool) -> None:
        """Decode will begin with all tokens once more, or with none of them."""
        self._to_replay = len(self.ids) if whole else 0

    def replayed(self, sampled: Sampled) -> tuple[Sampled, str]:
        """What is new of it; and what is wrong with what isn't, if anything is."""
        again = min(self._to_replay, len(sampled.token_ids))
        if not again:
            return sampled, ""
        begin = len(self.ids) - self._to_replay
        expected, seen = self.ids[begin : begin + again], list(sampled.token_ids[:again])
        if seen != expected:
            return sampled, f"replayed tokens {seen}, but the client has seen {expected}"
        self._to_replay -= again
        return sampled.behind(again), ""

    def take(self, sampled: Sampled, finish: FinishReason, output: RequestOutput) -> ChoiceDelta | None:
        """The client's part of an output, if it has one. ``finish`` is why the engine ended the answer, if it did; the
        delta's own reason says whether the answer is over, which it is by a stop string too."""
        token_ids = sampled.token_ids
        by_stop = finish == FINISH_REASON_STOP
        self.ids.extend(token_ids)
        piece = self._text.push(token_ids, ends_with_stop_token=by_stop)
        text, stop = piece.text, piece.stop
        if stop is None and finish:
            text += self._text.finish()
        ended = stop is not None or finish != FINISH_REASON_UNSPECIFIED
        kept = piece.kept_tokens
        self.kept += kept
        if not (kept or text or ended):
            return None
        shown = sampled.before(kept)
        delta = ChoiceDelta(index=self._index, text=text, token_ids=shown.token_ids)
        if shown.logprobs:
            delta.logprobs.extend(shown.logprobs)
        if ended:
            delta.finish_reason = FINISH_REASON_STOP if stop is not None else finish
            if stop is not None:
                delta.stop_string = stop
            elif output.HasField("stop_token_id"):
                delta.stop_token_id = output.stop_token_id
        return delta
