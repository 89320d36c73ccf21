"""A load test as it was asked for: plain values that every generator process makes the same requests of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal

from segue.loadtest.generator.run import Pace
from segue.loadtest.target.base import Ask, Target
from segue.loadtest.workload.arrivals import at_once, constant, poisson
from segue.loadtest.workload.prompts import PLAIN, PromptMaker, vocabulary_of
from segue.loadtest.workload.requests import Replay, Synthetic, replay, synthetic
from segue.loadtest.workload.shape import RequestShape
from segue.loadtest.workload.traces import read_trace

Api = Literal["completions", "chat", "grpc", "session"]


@dataclass(frozen=True, slots=True)
class Door:
    """Where the load goes and in which form. ``tokenizer``: folder or hub id; empty sends token ids."""

    url: str
    api: Api = "completions"
    as_text: bool = False
    tokenizer: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """An open loop's arrivals."""

    per_s: float
    kind: Literal["poisson", "constant"] = "poisson"


@dataclass(frozen=True, slots=True)
class Traced:
    """Requests after a trace's file."""

    path: Path
    how: Replay


@dataclass(frozen=True, slots=True)
class Plan:
    """``rate`` None: a closed loop, or a trace by its own times. ``max_requests`` 0: as many as there are.

    The first ``warm_up_requests``, and those intended before ``warm_up_s``, count in no figure.
    """

    door: Door
    ask: Ask
    requests: Synthetic | Traced
    rate: Rate | None
    pace: Pace
    max_requests: int = 0
    warm_up_requests: int = 0
    warm_up_s: float = 0.0
    seed: int = 0
    processes: int = 1

    def shapes(self) -> Iterator[RequestShape]:
        """Raises ValueError (TraceError for a trace) and OSError."""
        shapes = self._traced(self.requests) if isinstance(self.requests, Traced) else self._made_up(self.requests)
        return islice(shapes, self.max_requests) if self.max_requests else shapes

    def _made_up(self, what: Synthetic) -> Iterator[RequestShape]:
        return synthetic(what, self._arrivals(), self.seed)

    def _traced(self, trace: Traced) -> Iterator[RequestShape]:
        with trace.path.open(encoding="utf-8") as lines:
            entries = list(read_trace(lines))
        shapes = replay(entries, trace.how, self.seed)
        if self.rate is None:
            return shapes
        # The trace's lengths at a rate of our own.
        return (
            RequestShape(shape.index, at_s, shape.segments, shape.output_tokens, shape.slo_class)
            for shape, at_s in zip(shapes, self._arrivals(), strict=False)
        )

    def _arrivals(self) -> Iterator[float]:
        if self.rate is None:
            return at_once()
        return constant(self.rate.per_s) if self.rate.kind == "constant" else poisson(self.rate.per_s, self.seed)

    def is_warm_up(self, index: int, intended_s: float) -> bool:
        return index < self.warm_up_requests or intended_s < self.warm_up_s


@dataclass(frozen=True, slots=True)
class Share:
    """What one process takes: every ``of``-th request, from number ``part`` on."""

    part: int
    of: int

    def shapes(self, plan: Plan) -> Iterator[RequestShape]:
        return islice(plan.shapes(), self.part, None, self.of)

    def pace(self, plan: Plan) -> Pace:
        """A closed loop's clients are dealt out as evenly as they go."""
        whole = plan.pace
        if not whole.concurrency:
            return whole
        clients = whole.concurrency // self.of + (self.part < whole.concurrency % self.of)
        warm_up = len(range(self.part, plan.warm_up_requests, self.of))
        return Pace(clients, whole.max_duration_s, whole.drain_s, warm_up)


def open_target(plan: Plan) -> Target:
    """Raises ValueError for an address or tokenizer that won't do, SettingsError for a tokenizer that isn't there."""
    prompts = _prompts(plan)
    door = plan.door
    address = door.url.removeprefix("grpc://")
    if door.api == "grpc":
        from segue.loadtest.target.segue_grpc import GrpcTarget

        return GrpcTarget(address, plan.ask, prompts)
    if door.api == "session":
        from segue.loadtest.target.segue_session import SessionTarget

        return SessionTarget(address, plan.ask, prompts)
    from segue.loadtest.target.openai import OpenAiOptions, OpenAiTarget

    return OpenAiTarget(door.url, plan.ask, prompts, OpenAiOptions(door.api, door.as_text))


def _prompts(plan: Plan) -> PromptMaker:
    door = plan.door
    if not door.tokenizer:
        if door.api == "chat" or door.as_text:
            raise ValueError("prompts as text need the model's tokenizer: --tokenizer with its folder or hub id")
        return PromptMaker(PLAIN, plan.seed)
    from segue.router.text.tokenizer import TextCodec

    return PromptMaker(vocabulary_of(TextCodec.load(door.tokenizer)), plan.seed)
