"""How fast a worker is, from what this router sent it and when it answered. Clock passed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from segue.proto.sampling_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP
from segue.proto.worker_pb2 import RequestOutput, Role, Submit

# Of what was known before, this much remains with each measurement: some 20 measurements back count.
_MEMORY = 0.95
# A stall (a machine that swaps, a stopped process) would otherwise be remembered for a hundred requests. A worker that
# has really become slower is believed within a few.
_MOST_AT_ONCE = 4.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured of one worker; 0 where nothing has been yet.

    ``prefill_tokens_per_s`` is what an engine that is never idle gets through. ``decode_s`` is how long a request stays
    with a decode worker, its wait for a place included, and ``decode_tokens`` how many tokens it gets there.
    """

    prefill_tokens_per_s: float = 0.0
    decode_s: float = 0.0
    decode_tokens: float = 0.0


UNMEASURED = Rates()


class RateMeter:
    """Measures one worker. Requests that fail or are aborted measure nothing."""

    def __init__(self, role: Role) -> None:
        self._prefill = role == Role.ROLE_PREFILL
        self._sent: dict[str, _Sent] = {}
        self._answered_s = 0.0
        self._tokens = _Faded()
        self._seconds = _Faded()
        self._answers = _Faded()

    def sent(self, submit: Submit, now_s: float) -> None:
        self._sent[submit.request_id] = _Sent(now_s, len(submit.input_token_ids))

    def aborted(self, request_id: str) -> None:
        self._sent.pop(request_id, None)

    def answered(self, outputs: Iterable[RequestOutput], now_s: float) -> None:
        """Take the outputs of one frame."""
        if self._prefill:
            self._prefilled(outputs, now_s)
            return
        for output in outputs:
            sent = self._sent.get(output.request_id)
            if sent is None:
                continue
            sent.output_tokens += len(output.token_ids)
            if not output.finish_reason:
                continue
            del self._sent[output.request_id]
            if output.finish_reason in {FINISH_REASON_STOP, FINISH_REASON_LENGTH}:
                self._count(sent.output_tokens, now_s - sent.at_s, expected_s=self.rates.decode_s)

    @property
    def rates(self) -> Rates:
        seconds, answers = self._seconds.total, self._answers.total
        if not answers:
            return UNMEASURED
        if self._prefill:
            return Rates(prefill_tokens_per_s=self._tokens.total / seconds)
        return Rates(decode_s=seconds / answers, decode_tokens=self._tokens.total / answers)

    def _prefilled(self, outputs: Iterable[RequestOutput], now_s: float) -> None:
        """The engine was busy with a frame's prompts since it answered last, or since it got the first of them."""
        ended = [(output, self._sent.pop(output.request_id, None)) for output in outputs if output.finish_reason]
        done = [
            sent
            for output, sent in ended
            if sent is not None and output.finish_reason in {FINISH_REASON_STOP, FINISH_REASON_LENGTH}
        ]
        if not done:
            return
        tokens = sum(sent.input_tokens for sent in done)
        since_s = max(self._answered_s, min(sent.at_s for sent in done))
        self._answered_s = now_s
        rate = self.rates.prefill_tokens_per_s
        self._count(tokens, now_s - since_s, expected_s=tokens / rate if rate else 0.0)

    def _count(self, tokens: int, seconds: float, expected_s: float) -> None:
        if seconds <= 0:
            return
        if expected_s:
            seconds = min(seconds, _MOST_AT_ONCE * expected_s)
        self._tokens.add(tokens)
        self._seconds.add(seconds)
        self._answers.add(1)


@dataclass(slots=True)
class _Sent:
    at_s: float
    input_tokens: int
    output_tokens: int = 0


class _Faded:
    """A sum in which older terms count for less."""

    def __init__(self) -> None:
        self.total = 0.0

    def add(self, term: float) -> None:
        self.total = _MEMORY * self.total + term
