"""The short way of a token: from a worker's columns to the client's sink, for answers that are under way.

A router does this for every token of every answer. So a token has no message, no task and no log line of its own here;
what is more than a token and its text takes the long way, through
:class:`~segue.router.lifecycle.choice_run.ChoiceRun`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from segue.proto.worker_pb2 import RequestOutput, StepTokens
from segue.router.lifecycle.choice_run import ChoiceRun
from segue.router.lifecycle.choice_timings import ChoiceTimings
from segue.router.lifecycle.records import RouterObserver
from segue.router.lifecycle.request import Request
from segue.router.service import ResponseSink
from segue.router.workers.link import WorkerLink

_MAX_STREAM = (1 << 32) - 1


@dataclass(slots=True)
class _Stream:
    """One decode leg, with what a token needs of it at hand. ``tokens`` have come in columns; ``gaps_s`` is where the
    times between them are gathered, with those of all answers of the same class and pool."""

    link: WorkerLink
    leg_id: str
    push: Callable[[int], str | None]
    timings: ChoiceTimings
    sink: ResponseSink
    index: int
    gaps_s: list[float]
    tokens: int = 0


class TokenStreams:
    """The decode legs under way, by the numbers that workers know them by."""

    def __init__(self) -> None:
        self._streams: dict[int, _Stream] = {}
        self._number_of: dict[str, int] = {}  # By run: its present leg's.
        # By class and the pool that computed the prompt; filled and emptied with each frame.
        self._gaps_s: dict[tuple[str, str], list[float]] = {}
        self._last = 0

    def __len__(self) -> int:
        return len(self._streams)

    def open(self, link: WorkerLink, request: Request, run: ChoiceRun) -> int:
        """A number for a run's present leg; what an earlier leg still says is nobody's from now on."""
        self.close(run)
        number = self._last % _MAX_STREAM + 1
        while number in self._streams:
            number = number % _MAX_STREAM + 1
        self._last = number
        gaps_s = self._gaps_s.setdefault((request.slo_class, run.timings.pool), [])
        self._streams[number] = _Stream(link, run.leg_id, run.push_plain, run.timings, request.sink, run.index, gaps_s)
        self._number_of[run.run_id] = number
        return number

    def close(self, run: ChoiceRun) -> None:
        number = self._number_of.pop(run.run_id, None)
        if number is not None:
            del self._streams[number]

    def tokens_of(self, run: ChoiceRun) -> int:
        """How many tokens of a run's present leg have come in columns."""
        number = self._number_of.get(run.run_id)
        return 0 if number is None else self._streams[number].tokens

    def push(
        self,
        link: WorkerLink,
        tokens: StepTokens,
        now_s: float,
        long_way: Callable[[RequestOutput], None],
        observer: RouterObserver | None,
    ) -> None:
        """Give every token to whom it belongs. ``long_way`` takes to their runs, as outputs, those that need it."""
        streams = self._streams
        for number, token_id in zip(tokens.streams, tokens.token_ids, strict=False):
            stream = streams.get(number)
            if stream is None or stream.link is not link:
                continue  # It has ended, or goes on elsewhere.
            stream.tokens += 1
            text = stream.push(token_id)
            if text is None:
                long_way(RequestOutput(request_id=stream.leg_id, token_ids=(token_id,)))
                continue
            timings = stream.timings
            stream.gaps_s.append(now_s - timings.last_s)
            timings.last_s = now_s
            stream.sink.on_token(stream.index, text, token_id)
        for (slo_class, pool), gaps_s in self._gaps_s.items():
            if gaps_s:
                if observer is not None:
                    observer.on_tokens(slo_class, pool, gaps_s)
                gaps_s.clear()
