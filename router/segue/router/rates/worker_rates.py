"""How fast a worker is, from what this router sent it and when it answered. Clock passed in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from segue.proto.sampling_pb2 import FINISH_REASON_LENGTH, FINISH_REASON_STOP
from segue.proto.worker_pb2 import Load, RequestOutput, Role, Submit
from segue.router.rates.lines import MOST_AT_ONCE, NOTHING, Faded, Line, LineMeter
from segue.router.rates.stays import StayMeter

_FINISHED = {FINISH_REASON_STOP, FINISH_REASON_LENGTH}


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured of one worker; 0 where nothing has been yet.

    ``prefill_tokens_per_s`` is what an engine that is never idle gets through of prompts, of which those that it had
    cached don't count. ``decode_s`` is how long a request stays with a decode worker, its wait for a place included,
    and ``decode_tokens`` how many tokens it gets there; ``token_s`` is the time between two of them.

    ``step_prompt_tokens_per_s`` is of prefill workers' steps, which compute all routers' prompts; the other rates are
    of this router's alone.

    ``prefill`` is the time for a prompt by the tokens to be computed: on a prefill worker of the engine's time, on a
    decode worker from its being sent to its first token. ``step`` is an engine step's time by the requests in it, those
    steps that compute prompts left out, and ``stall`` by how much prompt tokens lengthen it. ``join_s`` is how long a
    request takes to get going on decode beside the transfer of its KV cache, ``local_s`` by how much later the first
    token of a prompt that decode computes itself comes than its steps account for.

    ``crowding`` is by how much of itself a decode worker's step takes longer for each prefill worker that computes.
    """

    prefill_tokens_per_s: float = 0.0
    decode_s: float = 0.0
    decode_tokens: float = 0.0
    token_s: float = 0.0
    prefill: Line = NOTHING
    step: Line = NOTHING
    stall: Line = NOTHING
    join_s: float = 0.0
    local_s: float = 0.0
    step_prompt_tokens_per_s: float = 0.0
    crowding: float = 0.0


UNMEASURED = Rates()


def first_by_steps_s(step: Line, stall: Line, tokens: float, running: int) -> float:
    """What steps alone account for of the time to the first token of a prompt that decode computes: the step that is
    under way is half over in the mean, and the next one has the prompt in it too."""
    return (0.5 * step(running) if running else 0.0) + step(running + 1) + stall(tokens)


def has_prompts(load: Load) -> bool:
    """Whether a decode worker's last step computed any: a request whose KV cache came from elsewhere has one token of
    its prompt left."""
    return load.step_prompt_tokens > load.step_requests


class RateMeter:
    """Measures one worker. Requests that fail or are aborted measure nothing."""

    def __init__(self, role: Role) -> None:
        self._prefill = role == Role.ROLE_PREFILL
        self._sent: dict[str, _Sent] = {}
        self._answered_s = 0.0
        self._tokens = Faded()
        self._seconds = Faded()
        self._answers = Faded()
        self._line = LineMeter()
        self._step = LineMeter()
        self._stall = LineMeter()
        self._steps = self._step_requests = 0
        self._waiting_tokens = 0
        self._step_tokens = Faded()
        self._step_seconds = Faded()
        self._joins = Faded()
        self._join_s = Faded()
        self._locals = Faded()
        self._local_s = Faded()
        self._stays = StayMeter()
        self._ends_s: tuple[float, ...] | None = ()
        self._rates: Rates | None = UNMEASURED

    def sent(self, submit: Submit, now_s: float) -> None:
        sent = _Sent(now_s, len(submit.input_token_ids), submit.HasField("ticket"), submit.sampling.max_tokens)
        self._sent[submit.request_id] = sent
        if not sent.ticket:
            sent.alone = not self._waiting_tokens
            sent.beside = self._step_requests if len(self._sent) > 1 else 0
            self._waiting_tokens += sent.input_tokens

    def aborted(self, request_id: str) -> None:
        if (sent := self._sent.pop(request_id, None)) is not None:
            self._given_up(sent)
            self._stays.gone(request_id)
            self._ends_s = None

    def ends_s(self, now_s: float) -> tuple[float, ...]:
        """When the answers that a decode worker has begun will be over, in order. The same object until something has
        changed."""
        if self._ends_s is None:
            self._ends_s = self._stays.ends_s(now_s, self._step.line(self._step_requests))
        return self._ends_s

    @property
    def busy_since_s(self) -> float:
        """Since when the worker has had the first of what it has now, by this router; 0 if it has nothing."""
        first = next(iter(self._sent.values()), None)
        return max(self._answered_s, first.at_s) if first is not None else 0.0

    def stepped(self, load: Load) -> bool:
        """Take the load of one frame: of the engine's last step. False if that was told before."""
        if load.steps == self._steps:
            return False
        self._steps, self._step_requests = load.steps, load.step_requests
        if self._prefill:  # There the answers tell the rest.
            if load.step_prompt_tokens and load.step_s > 0:
                self._step_tokens.add(load.step_prompt_tokens)
                self._step_seconds.add(load.step_s)
                self._rates = None
            return True
        if has_prompts(load):
            self._stall.add(load.step_prompt_tokens, load.step_s - self._step.line(load.step_requests))
        else:
            self._step.add(load.step_requests, load.step_s)
        self._rates = None
        return True

    def began(self, request_id: str, now_s: float) -> None:
        """A request's first token has come, if this is its first."""
        sent = self._sent.get(request_id)
        if sent is not None:
            self._began(request_id, sent, now_s)

    def produced(self, request_id: str, output_tokens: int) -> None:
        """A request's tokens before the output that :meth:`answered` is about to see."""
        sent = self._sent.get(request_id)
        if sent is not None:
            sent.output_tokens += output_tokens

    def answered(self, outputs: Iterable[RequestOutput], now_s: float) -> None:
        """Take the outputs of one frame."""
        if self._prefill:
            self._prefilled(outputs, now_s)
            return
        for output in outputs:
            sent = self._sent.get(output.request_id)
            if sent is None:
                continue
            if output.token_ids:
                self._began(output.request_id, sent, now_s)
            sent.output_tokens += len(output.token_ids)
            if not output.finish_reason:
                continue
            del self._sent[output.request_id]
            self._given_up(sent)
            self._ends_s = None
            if output.finish_reason not in _FINISHED:
                self._stays.gone(output.request_id)
            else:
                self._stays.ended(output.request_id, sent.output_tokens, now_s)
                self._beginning(sent, output)
                self._count(sent.output_tokens, now_s - sent.at_s, expected_s=self.rates.decode_s)

    @property
    def waiting_prefill_tokens(self) -> int:
        """On decode: tokens of prompts that it is to compute and of which nothing has come yet."""
        return self._waiting_tokens

    @property
    def rates(self) -> Rates:
        if self._rates is None:
            self._rates = self._measured()
        return self._rates

    def _began(self, request_id: str, sent: _Sent, now_s: float) -> None:
        if not sent.first_s:
            self._given_up(sent)
            sent.first_s = now_s
            if not self._prefill:
                self._stays.began(request_id, sent.most_tokens, now_s)
                self._ends_s = None

    def _given_up(self, sent: _Sent) -> None:
        """Nothing more is to be computed of its prompt."""
        if not (sent.ticket or sent.first_s):
            self._waiting_tokens -= sent.input_tokens

    def _measured(self) -> Rates:
        seconds, answers = self._seconds.total, self._answers.total
        if self._prefill:
            rate = self._tokens.total / seconds if seconds else 0.0
            busy_s = self._step_seconds.total
            return Rates(
                prefill_tokens_per_s=rate,
                prefill=self._line.line,
                step_prompt_tokens_per_s=self._step_tokens.total / busy_s if busy_s else 0.0,
            )
        return Rates(
            decode_s=seconds / answers if answers else 0.0,
            decode_tokens=self._tokens.total / answers if answers else 0.0,
            token_s=self._stays.token_s,
            prefill=self._line.line,
            step=self._step.line,
            stall=self._stall.line,
            join_s=self._join_s.total / self._joins.total if self._joins.total else 0.0,
            local_s=self._local_s.total / self._locals.total if self._locals.total else 0.0,
        )

    def _beginning(self, sent: _Sent, last: RequestOutput) -> None:
        """How long a decode worker took to begin, known with the last output's usage."""
        seconds = sent.first_s - sent.at_s
        if not sent.ticket:
            computed = _computed(last, sent)
            self._line.add(computed, seconds)
            if sent.alone and self._stall.line:
                by_steps_s = first_by_steps_s(self._step.line, self._stall.line, computed, sent.beside)
                # As parts of the whole they weigh alike: what a long prompt is off by says little of short ones.
                self._locals.add(1 / by_steps_s**2)
                self._local_s.add((min(seconds, MOST_AT_ONCE * by_steps_s) - by_steps_s) / by_steps_s**2)
        elif last.HasField("transfer") and not last.transfer.error:
            self._joins.add(1)
            self._join_s.add(max(0.0, seconds - last.transfer.seconds))

    def _prefilled(self, outputs: Iterable[RequestOutput], now_s: float) -> None:
        """The engine was busy with a frame's prompts since it answered last, or since it got the first of them."""
        ended = [(output, self._sent.pop(output.request_id, None)) for output in outputs if output.finish_reason]
        done = [
            (sent, _computed(output, sent))
            for output, sent in ended
            if sent is not None and output.finish_reason in _FINISHED
        ]
        for _, sent in ended:
            if sent is not None:
                self._given_up(sent)
        if not done:
            return
        tokens = sum(computed for _, computed in done)
        since_s = max(self._answered_s, min(sent.at_s for sent, _ in done))
        self._answered_s = now_s
        rate = self.rates.prefill_tokens_per_s
        self._count(tokens, now_s - since_s, expected_s=tokens / rate if rate else 0.0)
        self._line.add(tokens, now_s - since_s)

    def _count(self, tokens: int, seconds: float, expected_s: float) -> None:
        if seconds <= 0:
            return
        if expected_s:
            seconds = min(seconds, MOST_AT_ONCE * expected_s)
        self._tokens.add(tokens)
        self._seconds.add(seconds)
        self._answers.add(1)
        self._rates = None


def _computed(output: RequestOutput, sent: _Sent) -> int:
    """Tokens of a prompt that were computed. An engine that says nothing is taken to have computed all."""
    return max(1, output.usage.computed_tokens) if output.HasField("usage") else sent.input_tokens


@dataclass(slots=True)
class _Sent:
    at_s: float
    input_tokens: int
    ticket: bool
    most_tokens: int
    first_s: float = 0.0
    output_tokens: int = 0
    alone: bool = False  # No other prompt was to be computed before it.
    beside: int = 0  # Requests that were in the engine's steps.
