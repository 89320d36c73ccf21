"""What the events of an OpenAI stream say to a load test. Does no I/O."""

from __future__ import annotations

from typing import Any

import msgspec

from segue.loadtest.measure.outcome import Failure, Legs, Outcome
from segue.loadtest.target.sse import SseError, SseParser


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None
    finish_reason: str | None = None

    def has_tokens(self) -> bool:
        delta = self.delta
        return bool(self.text or (delta and (delta.content or delta.reasoning_content or delta.reasoning)))


class _PromptDetails(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int | None = 0
    prompt_tokens_details: _PromptDetails | None = None


class _Timings(msgspec.Struct):
    """As the router sends them; others are left out. ``transfer_s`` and its like are 0 where nothing happened."""

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


class _Segue(msgspec.Struct):
    timings: _Timings | None = None


class _Event(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None
    segue: _Segue | None = None


_decode = msgspec.json.Decoder(_Event).decode
_MAX_ERROR_BYTES = 2000


class OpenAiReader:
    """Takes the body of one streamed answer, with the time at which each piece came, into an ``Outcome``."""

    __slots__ = ("_done", "_error", "_outcome", "_parser")

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._parser = SseParser()
        self._error = b""
        self._done = False

    def feed(self, status: int, data: bytes, now_s: float) -> None:
        """Some bytes of the body. Malformed ones are noted as the request's failure."""
        if status != 200:
            self._error = (self._error + data)[:_MAX_ERROR_BYTES]
            return
        try:
            for event in self._parser.feed(data):
                self._take(event, now_s)
        except (SseError, msgspec.MsgspecError) as error:
            self._outcome.fail(Failure.MALFORMED, f"{type(error).__name__}: {error}")

    def end(self, status: int) -> None:
        """The answer is whole as far as HTTP is concerned."""
        outcome = self._outcome
        if status != 200:
            outcome.fail(_failure_of_status(status), f"HTTP {status}: {self._error.decode(errors='replace')}")
        elif not self._done and not outcome.chunks and not outcome.finish_reason:
            outcome.fail(Failure.INCOMPLETE, "a 200 without any event of an answer")

    def _take(self, data: bytes, now_s: float) -> None:
        if data == b"[DONE]":
            self._done = True
            return
        event = _decode(data)
        outcome = self._outcome
        for choice in event.choices:
            if choice.has_tokens():
                outcome.on_chunk(now_s)
            if choice.finish_reason:
                outcome.finish_reason = choice.finish_reason
        if event.usage is not None:
            self._count(event.usage)
        if event.error:
            outcome.fail(_failure_of_error(event.error), f"error in the stream: {event.error}")
        if event.segue is not None and (timings := event.segue.timings) is not None:
            outcome.legs = Legs(
                timings.path,
                timings.ttft_s,
                timings.queue_s,
                timings.prefill_s,
                timings.handoff_s,
                timings.transfer_s,
                timings.transfer_bytes,
                timings.decode_s,
                timings.prefill_worker,
                timings.decode_worker,
                timings.transport,
            )

    def _count(self, usage: _Usage) -> None:
        outcome = self._outcome
        outcome.prompt_tokens = usage.prompt_tokens
        outcome.output_tokens = usage.completion_tokens or 0
        outcome.counted = True
        if usage.prompt_tokens_details is not None:
            outcome.cached_tokens = usage.prompt_tokens_details.cached_tokens or 0


def _failure_of_status(status: int) -> Failure:
    if status == 429:
        return Failure.REFUSED
    if status in (408, 504):
        return Failure.TIMEOUT
    return Failure.SERVER_ERROR if status >= 500 else Failure.CLIENT_ERROR


def _failure_of_error(error: object) -> Failure:
    """OpenAI's ``error.type`` in a stream that had begun."""
    kind = str(error.get("type", "")) if isinstance(error, dict) else ""
    if kind == "rate_limit_error":
        return Failure.REFUSED
    return Failure.TIMEOUT if kind == "timeout_error" else Failure.SERVER_ERROR
