"""When the answers that a decode worker writes will be over. Clock passed in.

A batch of answers that began together ends together: between its ends no place comes free, however many do in the mean.
So each answer counts by itself, from its first token, by the tokens that it probably gets at the pace at which they
come. How many it gets is guessed either as the most that it may or as what answers had lately, whichever guess was
nearer so far; one that has had its share goes on for as long as guesses are wrong by.
"""

from __future__ import annotations

from segue.router.rates.lines import MOST_AT_ONCE, Faded

# Of an answer's tokens, before any answer has been seen to its end.
FIRST_DECODE_TOKENS = 256.0


class StayMeter:
    """One decode worker's answers, of this router."""

    def __init__(self) -> None:
        self._began: dict[str, tuple[float, int]] = {}  # When its first token came, and the most tokens it may get.
        self._answers = Faded()
        self._tokens = Faded()
        self._gaps = Faded()
        self._seconds = Faded()
        self._most_errors = Faded()
        self._mean_errors = Faded()

    def began(self, request_id: str, most_tokens: int, now_s: float) -> None:
        self._began[request_id] = now_s, most_tokens

    def gone(self, request_id: str) -> None:
        """It has not come to its end here."""
        self._began.pop(request_id, None)

    def ended(self, request_id: str, tokens: int, now_s: float) -> None:
        """It got so many."""
        began = self._began.pop(request_id, None)
        if began is None or tokens < 1:
            return
        began_s, most_tokens = began
        if most_tokens:
            self._most_errors.add(abs(most_tokens - tokens))
            self._mean_errors.add(abs(self._by_mean(most_tokens) - tokens))
        self._answers.add(1)
        self._tokens.add(tokens)
        if tokens > 1:
            seconds, gaps = now_s - began_s, tokens - 1
            self._seconds.add(min(seconds, MOST_AT_ONCE * self.token_s * gaps) if self.token_s else seconds)
            self._gaps.add(gaps)

    @property
    def token_s(self) -> float:
        """Between two tokens of an answer in the mean, whatever else the engine did meanwhile; 0: not known yet."""
        return self._seconds.total / self._gaps.total if self._gaps.total else 0.0

    def ends_s(self, now_s: float, step_s: float) -> tuple[float, ...]:
        """When those that have begun will be over, in order. ``step_s`` is the pace as long as none has ended; 0, and
        nothing is known."""
        pace_s = self.token_s or step_s
        if not pace_s:
            return ()
        overdue = self._overdue()
        ends = []
        for began_s, most_tokens in self._began.values():
            stay_s = self._expected(most_tokens) * pace_s
            ends.append(max(began_s + stay_s, now_s + overdue * stay_s))
        ends.sort()
        return tuple(ends)

    def _expected(self, most_tokens: int) -> float:
        if most_tokens and self._answers.total and self._most_errors.total <= self._mean_errors.total:
            return float(most_tokens)
        return self._by_mean(most_tokens)

    def _by_mean(self, most_tokens: int) -> float:
        mean = self._tokens.total / self._answers.total if self._answers.total else FIRST_DECODE_TOKENS
        return min(mean, most_tokens) if most_tokens else mean

    def _overdue(self) -> float:
        """What is left of an answer that is longer than expected, as part of what was."""
        tokens = self._tokens.total
        return min(self._most_errors.total, self._mean_errors.total) / tokens if tokens else 0.0
