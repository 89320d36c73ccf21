"""The life of one answer, as a state machine without I/O: worker outputs in, actions out.

Prefill gives token 1 and a ticket; decode gets the ticket and gives the rest. A worker that is lost, refuses or drains
meanwhile interrupts the answer: it asks for another plan, and goes on behind the tokens that it has. Each attempt is
a *leg* with an id of its own, so that what an earlier one says late is told apart.

Whichever way it ends, every worker that may still hold something for it is told: by an abort, or by releasing a ticket
that nobody will claim.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from segue.base.errors import DeadlineExceeded, InternalError, SegueError, Unavailable
from segue.kv_transfer.held_ticket import HeldTicket
from segue.proto.inference_pb2 import (
    PATH_EXACT,
    PATH_LOCAL,
    PATH_PREFILL_ONLY,
    PATH_RECOMPUTED,
    Continuation,
)
from segue.proto.sampling_pb2 import (
    FINISH_REASON_LENGTH,
    FINISH_REASON_STOP,
    FINISH_REASON_UNSPECIFIED,
    FinishReason,
    SamplingParams,
)
from segue.proto.worker_pb2 import RequestOutput
from segue.router.lifecycle.actions import Abort, Action, Emit, Fail, Move, Replan, Send
from segue.router.lifecycle.answer_tokens import AnswerTokens, Sampled
from segue.router.lifecycle.choice_timings import ChoiceTimings
from segue.router.lifecycle.kv_in_hand import KvInHand, release_late
from segue.router.lifecycle.legs import Legs, choose_path
from segue.router.lifecycle.worker_faults import error_of, has_moved, is_failure, is_of_the_request
from segue.router.limits import shown_s
from segue.router.planning.planner import Plan
from segue.router.prompt_tokens import PromptTokens
from segue.router.text.choice import ChoiceText

_ENDS = (FINISH_REASON_STOP, FINISH_REASON_LENGTH)


class Phase(enum.Enum):
    PREFILL = "prefill"
    DECODE = "decode"
    WAITING = "waiting"  # For a plan: at the beginning, and after an interruption.
    OVER = "over"


@dataclass(frozen=True, slots=True)
class ChoiceSpec:
    """What one of a request's n answers is to be. ``run_id`` names it in the ids of its legs."""

    run_id: str
    index: int
    prompt: Sequence[int]
    sampling: SamplingParams
    deadline_s: float
    priority: int = 0


class ChoiceRun:
    """One answer. Times are of one monotonic clock, the caller's. ``leg_id`` is its present leg's."""

    def __init__(self, spec: ChoiceSpec, text: ChoiceText, now_s: float) -> None:
        self.run_id = spec.run_id
        self.index = spec.index
        self.prompt_tokens = len(spec.prompt)
        self.leg_id = f"{spec.run_id}.0"
        self.phase = Phase.WAITING
        self.plan = Plan(None, "")
        self.path, reason = choose_path(spec.sampling)
        self.timings = ChoiceTimings(reason, now_s)
        self._spec = spec
        self._kv = KvInHand()
        self._answer = AnswerTokens(spec.index, text)
        self.push_plain = self._answer.push_plain  # The short way of on_output. Tell ``timings`` too.
        self._legs = Legs(
            PromptTokens.of(spec.prompt), spec.sampling, exact=self.path == PATH_EXACT, priority=spec.priority
        )
        self._leg = 0
        self._asked_to_move = 0

    @property
    def output_tokens(self) -> int:
        """The client's."""
        return self._answer.kept

    @property
    def behind(self) -> Sequence[int]:
        """What the next worker would be given as input behind the prompt: not what it is to sample again."""
        return () if self._legs.exact else self._answer.ids

    @property
    def left_tokens(self) -> int:
        """The most that may follow."""
        return self._spec.sampling.max_tokens - len(self._answer.ids)

    @property
    def worker_id(self) -> str | None:
        """Who has the answer now."""
        if self.phase is Phase.PREFILL:
            return self.plan.prefill_id
        return self.plan.decode_id if self.phase is Phase.DECODE else None

    @property
    def held(self) -> HeldTicket | None:
        """The ticket of a KV cache that nobody is known to have consumed: its lease is to be renewed."""
        return self._kv.held

    @property
    def producer_id(self) -> str | None:
        """Whose KV cache decode was given."""
        return self._kv.producer_id

    @property
    def movable(self) -> bool:
        """Whether decode's KV cache, moved to another worker, would spare that one work: not if it must replay."""
        return self.phase is Phase.DECODE and not self._legs.exact

    def go_on(self, plan: Plan, now_s: float) -> list[Action]:
        """Begin, or continue behind the tokens that there are. A ticket still on offer is used before a new prefill."""
        self._leg += 1
        self.leg_id = f"{self.run_id}.{self._leg}"
        self.plan = plan
        if plan.prefill_id is None:
            self.timings.on_plan(plan.reason, self.prompt_tokens - plan.prefill_tokens if plan.prefill_tokens else 0)
        else:
            self.timings.on_plan("", 0)
        self.timings.on_sent(now_s)
        if self.held is not None or plan.prefill_id is None:
            return self._to_decode(now_s)
        self._enter(Phase.PREFILL)
        return [Send(plan.prefill_id, self._legs.prefill(self.leg_id, self._answer.ids, self._left_s(now_s)))]

    def on_output(self, worker_id: str, output: RequestOutput, now_s: float) -> list[Action]:
        """Outputs of an earlier leg, or of a worker that is not the present phase's, are late: only their tickets
        count."""
        if worker_id != self.worker_id or output.request_id != self.leg_id:
            return release_late(worker_id, output)
        if is_failure(output):
            return self._on_failure(worker_id, output, now_s)
        if self.phase is Phase.PREFILL:
            return self._on_token_1(output, now_s)
        return self._on_tokens(output, now_s)

    def move(self) -> list[Action]:
        """Have a draining decode worker hand over what it has: asked once a leg, and only where it spares work."""
        if not self.movable or self._asked_to_move == self._leg:
            return []
        self._asked_to_move = self._leg
        return [Move(self.plan.decode_id, self.leg_id)]

    def cancel(self) -> list[Action]:
        """Give up: frees whatever is held for the answer, on the way between two workers too."""
        worker_id = self.worker_id
        self._enter(Phase.OVER)
        aborts: list[Action] = [] if worker_id is None else [Abort(worker_id, self.leg_id)]
        return aborts + self._kv.release()

    def on_deadline(self, timeout_s: float) -> list[Action]:
        if self.phase is Phase.OVER:
            return []
        phase = self.phase.value
        message = (
            f"the request's {shown_s(timeout_s)} s passed during {phase}, after {self.output_tokens} output tokens"
        )
        return [*self.cancel(), Fail(DeadlineExceeded(message))]

    def on_worker_lost(self, worker_id: str, why: str = "was lost while it worked on the request") -> list[Action]:
        self._kv.producer_lost(worker_id)
        if worker_id != self.worker_id:
            return []
        message = f"{self.phase.value} worker {worker_id} {why}"
        return self._interrupt(worker_id, Unavailable(message), at_fault=True)

    def _on_failure(self, worker_id: str, output: RequestOutput, now_s: float) -> list[Action]:
        """A fault of the request ends it; one of the worker's, or a move, interrupts it."""
        error = error_of(worker_id, output)
        if is_of_the_request(output):
            self._enter(Phase.OVER)
            return [*release_late(worker_id, output), *self._kv.release(), Fail(error)]
        actions: list[Action] = []
        if output.token_ids and self.phase is Phase.DECODE:  # Sampled before the worker stopped.
            sampled = RequestOutput(token_ids=output.token_ids, logprobs=output.logprobs)
            actions = [action for action in self._on_tokens(sampled, now_s) if not isinstance(action, Abort)]
        if output.HasField("usage") and self.phase is Phase.DECODE:
            self.timings.on_usage(output.usage)
        if output.HasField("offer"):
            if self.movable:
                actions += self._kv.release()
                self._kv.offered(output, now_s)
            else:
                actions += release_late(worker_id, output)
        if self.phase is Phase.OVER:  # By a stop string among those tokens.
            return actions
        return actions + self._interrupt(worker_id, error, at_fault=not has_moved(output))

    def _interrupt(self, worker_id: str, error: SegueError, *, at_fault: bool) -> list[Action]:
        self._enter(Phase.WAITING)
        self.timings.on_interruption(
            Continuation(worker=worker_id, reason=str(error), after_output_tokens=self.output_tokens)
        )
        return [Replan(worker_id, error, at_fault)]

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._answer.plain = False

    def _left_s(self, now_s: float) -> float:
        return self._spec.deadline_s - now_s

    def _to_decode(self, now_s: float) -> list[Action]:
        self._enter(Phase.DECODE)
        answer = self._answer
        ticket = self._kv.assign()
        if ticket is None:
            self.path = PATH_RECOMPUTED if answer.ids else PATH_LOCAL
        answer.expect_replay(whole=self._legs.exact)
        submit = self._legs.decode(self.leg_id, answer.ids, ticket, self._left_s(now_s))
        return [Send(self.plan.decode_id, submit)]

    def _on_token_1(self, output: RequestOutput, now_s: float) -> list[Action]:
        """Of a continuation too: there it is the token behind those that the client has."""
        worker_id, answer = str(self.plan.prefill_id), self._answer
        if len(output.token_ids) != 1:
            message = f"prefill worker {worker_id} gave {len(output.token_ids)} tokens, expected 1"
            late = release_late(worker_id, output)
            return [*late, *self._interrupt(worker_id, InternalError(message), at_fault=True)]
        self._kv.offered(output, now_s)
        if self._legs.exact and answer.ids:
            return self._to_decode(now_s)  # The token is another draw of one that the client has.
        self.timings.on_token_1(worker_id, output, now_s)
        finish = FINISH_REASON_UNSPECIFIED
        if output.finish_reason == FINISH_REASON_STOP:
            finish = FINISH_REASON_STOP
        elif len(answer.ids) + 1 == self._spec.sampling.max_tokens:
            finish = FINISH_REASON_LENGTH
        first = not answer.ids
        actions = self._emit(Sampled.of(output), finish, output)
        if self.phase is Phase.OVER:
            if first:
                self.path = PATH_PREFILL_ONLY
            return [*actions, *self._kv.release()]
        # Decode first: whoever cancels on seeing token 1 then aborts a worker that has the ticket.
        return [*self._to_decode(now_s), *actions]

    def _on_tokens(self, output: RequestOutput, now_s: float) -> list[Action]:
        decode_id = self.plan.decode_id
        self.timings.on_tokens(decode_id, output, now_s)
        self._kv.consumed()
        late: list[Action] = []
        if output.HasField("transfer") and output.transfer.error:
            self.path = PATH_RECOMPUTED
            late = self._kv.release_claimed()
        sampled, problem = self._answer.replayed(Sampled.of(output))
        if problem:
            return [*self.cancel(), Fail(InternalError(f"decode worker {decode_id} {problem}"))]
        self._answer.may_be_plain()
        finish = output.finish_reason if output.finish_reason in _ENDS else FINISH_REASON_UNSPECIFIED
        actions = self._emit(sampled, finish, output)
        if self.phase is Phase.OVER and not finish:  # A stop string, which the engine knows nothing of.
            actions.append(Abort(decode_id, self.leg_id))
        return [*late, *actions]

    def _emit(self, sampled: Sampled, finish: FinishReason, output: RequestOutput) -> list[Action]:
        """The client's part of an output. The answer may be over with it."""
        delta = self._answer.take(sampled, finish, output)
        if delta is None:
            return []
        if delta.finish_reason:
            self._enter(Phase.OVER)
        return [Emit(delta)]
