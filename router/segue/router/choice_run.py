"""The life of one answer, as a state machine without I/O: worker outputs in, actions out.

Prefill gives token 1 and a ticket; decode gets the ticket and gives the rest. Whichever way it ends, every worker
that may still hold something for it is told: by an abort, or by releasing a ticket that nobody will claim.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from segue.base.errors import DeadlineExceeded, InternalError, InvalidRequest, SegueError, Unavailable
from segue.proto.inference_pb2 import ChoiceDelta, Path
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import (
    FINISH_REASON_ABORT,
    FINISH_REASON_ERROR,
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FinishReason,
    PositionLogprobs,
    SamplingParams,
)
from segue.proto.worker_pb2 import RequestError, RequestOutput, Submit
from segue.router.choice_timings import ChoiceTimings
from segue.router.legs import choose_path, decode_sampling, prefill_sampling
from segue.router.planner import Plan
from segue.router.text.choice import ChoiceText, Piece


@dataclass(frozen=True, slots=True)
class Send:
    worker_id: str
    submit: Submit


@dataclass(frozen=True, slots=True)
class Abort:
    worker_id: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Release:
    worker_id: str
    ticket: Ticket


@dataclass(frozen=True, slots=True)
class Emit:
    delta: ChoiceDelta


@dataclass(frozen=True, slots=True)
class Fail:
    error: SegueError


_FAILURES = (FINISH_REASON_ABORT, FINISH_REASON_ERROR)

Action = Send | Abort | Release | Emit | Fail


class Phase(enum.Enum):
    PREFILL = "prefill"
    DECODE = "decode"
    OVER = "over"


@dataclass(frozen=True, slots=True)
class ChoiceSpec:
    """What one of a request's n answers is to be. ``run_id`` names it to the workers."""

    run_id: str
    index: int
    prompt: tuple[int, ...]
    sampling: SamplingParams
    plan: Plan
    deadline_s: float


class ChoiceRun:
    """One answer. Times are of one monotonic clock, the caller's."""

    def __init__(self, spec: ChoiceSpec, text: ChoiceText, now_s: float) -> None:
        self.run_id = spec.run_id
        self.plan = spec.plan
        self.phase = Phase.PREFILL
        self.output_tokens = 0
        self.path, reason = choose_path(spec.sampling)
        self.timings = ChoiceTimings(spec.plan, reason, now_s)
        self._spec = spec
        self._text = text
        self._token_1: int | None = None
        self._unclaimed: Ticket | None = None
        self._to_replay = self.path == Path.PATH_EXACT

    @property
    def prompt_tokens(self) -> int:
        return len(self._spec.prompt)

    def begin(self, now_s: float) -> list[Action]:
        submit = Submit(
            request_id=self.run_id,
            input_token_ids=self._spec.prompt,
            sampling=prefill_sampling(self._spec.sampling),
            timeout_s=self._spec.deadline_s - now_s,
            offer_kv=self._spec.sampling.max_tokens > 1,
        )
        return [Send(self.plan.prefill_id, submit)]

    def on_output(self, worker_id: str, output: RequestOutput, now_s: float) -> list[Action]:
        """Outputs of a worker that is not the present phase's are late, and nothing but their ticket counts."""
        expected = self.plan.prefill_id if self.phase is Phase.PREFILL else self.plan.decode_id
        if self.phase is Phase.OVER or worker_id != expected:
            return [Release(worker_id, output.offer)] if output.HasField("offer") else []
        if output.finish_reason in _FAILURES or output.HasField("error"):
            return [*self._give_back(output), Fail(_segue_error(worker_id, output))]
        if self.phase is Phase.PREFILL:
            return self._on_token_1(output, now_s)
        return self._on_tokens(output, now_s)

    def cancel(self) -> list[Action]:
        """Give up: frees whatever the current worker holds."""
        if self.phase is Phase.OVER:
            return []
        worker_id = self.plan.prefill_id if self.phase is Phase.PREFILL else self.plan.decode_id
        self.phase = Phase.OVER
        return [Abort(worker_id, self.run_id)]

    def on_deadline(self, timeout_s: float) -> list[Action]:
        if self.phase is Phase.OVER:
            return []
        phase = self.phase.value
        message = f"the request's {timeout_s:g} s passed during {phase}, after {self.output_tokens} output tokens"
        return [*self.cancel(), Fail(DeadlineExceeded(message))]

    def on_worker_lost(self, worker_id: str) -> list[Action]:
        needed = {Phase.PREFILL: self.plan.prefill_id, Phase.DECODE: self.plan.decode_id}.get(self.phase)
        if worker_id != needed:
            return []
        message = f"{self.phase.value} worker {worker_id} was lost while it worked on the request; try again"
        return [*self._give_back(), Fail(Unavailable(message))]

    def _give_back(self, output: RequestOutput | None = None) -> list[Action]:
        """Be over, and release the ticket that comes with ``output`` or that decode may not have claimed."""
        self.phase = Phase.OVER
        ticket = output.offer if output is not None and output.HasField("offer") else self._unclaimed
        return [] if ticket is None else [Release(self.plan.prefill_id, ticket)]

    def _on_token_1(self, output: RequestOutput, now_s: float) -> list[Action]:
        self.timings.on_token_1(output, now_s)
        if len(output.token_ids) != 1:
            message = f"prefill worker {self.plan.prefill_id} gave {len(output.token_ids)} tokens, expected 1"
            return [*self._give_back(output), Fail(InternalError(message))]
        self._token_1 = output.token_ids[0]
        by_stop = output.finish_reason == FINISH_REASON_STOP
        ended, actions = self._emit(
            output, output.token_ids, output.logprobs, by_stop, self._spec.sampling.max_tokens == 1
        )
        if ended:
            self.path = Path.PATH_PREFILL_ONLY
            return [*actions, *self._give_back(output)]
        if not output.HasField("offer"):
            self.phase = Phase.OVER
            return [*actions, Fail(InternalError(f"prefill worker {self.plan.prefill_id} gave token 1 but no ticket"))]
        self.phase = Phase.DECODE
        self._unclaimed = output.offer
        exact = self.path == Path.PATH_EXACT
        submit = Submit(
            request_id=self.run_id,
            input_token_ids=[*self._spec.prompt] if exact else [*self._spec.prompt, self._token_1],
            sampling=decode_sampling(self._spec.sampling, self.path),
            timeout_s=self._spec.deadline_s - now_s,
            ticket=output.offer,
            forced_token_ids=[self._token_1] if exact else [],
        )
        # Decode first: whoever cancels on seeing token 1 then aborts a worker that has the ticket.
        return [Send(self.plan.decode_id, submit), *actions]

    def _on_tokens(self, output: RequestOutput, now_s: float) -> list[Action]:
        self.timings.on_tokens(output, now_s)
        self._unclaimed = None
        if output.HasField("transfer") and output.transfer.error:
            self.path = Path.PATH_RECOMPUTED
        token_ids: Sequence[int] = output.token_ids
        logprobs: Sequence[PositionLogprobs] = output.logprobs
        if self._to_replay and token_ids:
            self._to_replay = False
            if token_ids[0] != self._token_1:
                message = f"decode began with token {token_ids[0]}, but the client has seen {self._token_1}"
                return [*self.cancel(), Fail(InternalError(message))]
            token_ids, logprobs = token_ids[1:], logprobs[1:]
        finish = output.finish_reason
        by_stop, by_length = finish == FINISH_REASON_STOP, finish == FINISH_REASON_LENGTH
        ended, actions = self._emit(output, token_ids, logprobs, by_stop, by_length)
        if ended and not finish:  # A stop string, which the engine knows nothing of.
            actions.append(Abort(self.plan.decode_id, self.run_id))
        return actions

    def _emit(
        self,
        output: RequestOutput,
        token_ids: Sequence[int],
        logprobs: Sequence[PositionLogprobs],
        by_stop: bool,
        by_length: bool,
    ) -> tuple[bool, list[Action]]:
        """The client's part of an output, and whether the answer is over with it."""
        piece = self._text.push(token_ids, ends_with_stop_token=by_stop)
        text, stop = piece.text, piece.stop
        if stop is None and (by_stop or by_length):
            rest: Piece = self._text.finish()
            text, stop = text + rest.text, rest.stop
        ended = stop is not None or by_stop or by_length
        kept = piece.kept_tokens
        self.output_tokens += kept
        if not (kept or text or ended):
            return False, []
        if kept < len(token_ids):
            token_ids, logprobs = token_ids[:kept], logprobs[:kept]
        delta = ChoiceDelta(index=self._spec.index, text=text, token_ids=token_ids)
        if logprobs:
            delta.logprobs.extend(logprobs)
        if ended:
            self.phase = Phase.OVER
            length = by_length and not by_stop and stop is None
            delta.finish_reason = FINISH_REASON_LENGTH if length else FINISH_REASON_STOP
            if stop is not None:
                delta.stop_string = stop
            elif output.HasField("stop_token_id"):
                delta.stop_token_id = output.stop_token_id
        return ended, [Emit(delta)]


def _segue_error(worker_id: str, output: RequestOutput) -> SegueError:
    error = output.error
    message = f"worker {worker_id}: {error.message}"
    if not output.HasField("error"):
        message = f"worker {worker_id} ended the request with {FinishReason.Name(output.finish_reason)} and no error"
    if error.kind == RequestError.KIND_INVALID:
        return InvalidRequest(error.message)
    if error.kind == RequestError.KIND_UNAVAILABLE:
        return Unavailable(message)
    if error.kind == RequestError.KIND_DEADLINE:
        return DeadlineExceeded(message)
    return InternalError(message)
