"""One request as its client saw it."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from enum import StrEnum


class Failure(StrEnum):
    """Why a request counts as failed."""

    REFUSED = "refused"  # 429 or RESOURCE_EXHAUSTED: the server said that it has too much to do.
    TIMEOUT = "timeout"  # The client's own limit, or the server's deadline.
    CONNECT = "connect"  # No connection came about.
    RESET = "reset"  # The connection broke before the answer was whole.
    SERVER_ERROR = "server_error"  # 5xx, or an error inside the stream.
    CLIENT_ERROR = "client_error"  # Another 4xx: the request itself is at fault.
    INCOMPLETE = "incomplete"  # The stream ended in order, but without a finish reason.
    MALFORMED = "malformed"  # What came is not what the API promises.


@dataclass(frozen=True, slots=True)
class Legs:
    """Where a Segue router says the time went; seconds, 0 where a leg did not happen."""

    path: str = ""
    ttft_s: float = 0.0
    queue_s: float = 0.0
    prefill_s: float = 0.0
    handoff_s: float = 0.0
    transfer_s: float = 0.0
    transfer_bytes: int = 0
    decode_s: float = 0.0
    prefill_worker: str = ""
    decode_worker: str = ""
    transport: str = ""


@dataclass(slots=True)
class Outcome:
    """One request, filled in as it goes. Times are seconds since the load's start.

    ``intended_s`` is when the schedule wanted it sent, ``sent_s`` when it was: a generator that falls behind shows in
    the difference. ``gaps_s`` are the times between chunks that carried tokens; with several tokens in a chunk there
    are fewer of them than tokens.
    """

    index: int
    slo_class: str
    intended_s: float
    sent_s: float
    asked_prompt_tokens: int
    asked_output_tokens: int
    first_s: float | None = None
    last_s: float | None = None
    end_s: float = 0.0
    chunks: int = 0
    gaps_s: array[float] = field(default_factory=lambda: array("d"))
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    counted: bool = False  # The server said how many tokens; else a chunk is taken for one.
    finish_reason: str = ""
    failure: Failure | None = None
    detail: str = ""
    legs: Legs | None = None

    def on_chunk(self, now_s: float) -> None:
        """A chunk with tokens of the answer has come."""
        if self.last_s is None:
            self.first_s = now_s
        else:
            self.gaps_s.append(now_s - self.last_s)
        self.last_s = now_s
        self.chunks += 1

    def fail(self, failure: Failure, detail: str) -> None:
        """The first failure stands; what follows from it says less."""
        if self.failure is None:
            self.failure, self.detail = failure, detail[:300]

    def close(self, now_s: float) -> None:
        """The request is over, well or not."""
        self.end_s = now_s
        if not self.counted:
            self.output_tokens = self.chunks
        if self.failure is None and not self.finish_reason:
            self.fail(Failure.INCOMPLETE, f"the stream ended after {self.chunks} chunks without a finish reason")
        if self.failure is None and self.first_s is None:
            self.first_s = self.last_s = now_s  # All tokens were ones without text of their own, or it was unary.

    @property
    def ok(self) -> bool:
        return self.failure is None

    @property
    def ttft_s(self) -> float:
        """From the intended time. Only of answered requests."""
        return (self.first_s if self.first_s is not None else self.end_s) - self.intended_s

    @property
    def sent_ttft_s(self) -> float:
        """From the actual time."""
        return self.ttft_s - self.lag_s

    @property
    def end_to_end_s(self) -> float:
        """From the intended time to the last chunk with tokens."""
        return (self.last_s if self.last_s is not None else self.end_s) - self.intended_s

    @property
    def lag_s(self) -> float:
        return self.sent_s - self.intended_s

    @property
    def itl_s(self) -> float | None:
        """Mean time between tokens: (end to end - TTFT) / (output tokens - 1). None with fewer than two."""
        if self.output_tokens < 2:
            return None
        return (self.end_to_end_s - self.ttft_s) / (self.output_tokens - 1)
