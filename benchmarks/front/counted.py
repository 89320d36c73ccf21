"""What a client in another process tells while it runs: counters in shared memory, and samples at the end."""

from __future__ import annotations

import multiprocessing as mp
from array import array
from dataclasses import dataclass, field
from multiprocessing.sharedctypes import Synchronized
from typing import Any


@dataclass(frozen=True, slots=True)
class Ask:
    """What the client is to do: ``streams`` requests at a time of ``tokens`` tokens each, again and again until told to
    stop.

    ``api`` is ``http``, ``grpc`` (a call a request) or ``session`` (all on one call). ``path`` is of HTTP. ``prompt``
    is text; a number is put in front of it, so that no two are equal.
    """

    api: str
    port: int
    model: str
    streams: int
    tokens: int
    path: str = "/v1/completions"
    prompt: str = "Tell me a story about a router."
    stream: bool = True


class Counters:
    """Written by one process, read by another; a reading may be a moment old."""

    def __init__(self) -> None:
        context = mp.get_context("spawn")
        self._tokens: Synchronized[int] = context.Value("Q", 0)
        self._begun: Synchronized[int] = context.Value("Q", 0)
        self._finished: Synchronized[int] = context.Value("Q", 0)
        self._failed: Synchronized[int] = context.Value("Q", 0)
        self.stop = context.Event()

    def read(self) -> tuple[int, int, int, int]:
        """Tokens, requests begun (their first token is there), finished and failed."""
        return self._tokens.value, self._begun.value, self._finished.value, self._failed.value

    def write(self, tally: Tally) -> None:
        self._tokens.value = tally.tokens
        self._begun.value = tally.begun
        self._finished.value = tally.finished
        self._failed.value = tally.failed


@dataclass(slots=True)
class Tally:
    """One client process's own figures. ``messages``: reads of a socket with events in them, or gRPC messages."""

    tokens: int = 0
    messages: int = 0
    begun: int = 0
    finished: int = 0
    failed: int = 0
    error: str = ""
    ttft_s: array[float] = field(default_factory=lambda: array("d"))
    gaps_s: array[float] = field(default_factory=lambda: array("d"))

    def got(self, now_s: float, last_s: float, asked_s: float, tokens: int) -> None:
        """``tokens`` have come together; ``last_s`` is when this stream's last ones came, 0 for the first."""
        self.tokens += tokens
        if last_s:
            self.gaps_s.append(now_s - last_s)
        else:
            self.begun += 1
            self.ttft_s.append(now_s - asked_s)

    def result(self) -> dict[str, Any]:
        return {
            "tokens": self.tokens,
            "messages": self.messages,
            "requests": self.finished,
            "failed": self.failed,
            "error": self.error,
            "ttft_s": list(self.ttft_s),
            "gaps_s": list(self.gaps_s),
        }
