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

from segue.base.errors import DeadlineExceeded, InternalError, InvalidRequest, SegueError, Unavailable
from segue.kv_transfer.held_ticket import HeldTicket
from segue.proto.inference_pb2 import ChoiceDelta, Continuation, Path
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
from segue.proto.worker_pb2 import RequestError, RequestOutput
from segue.router.actions import Abort, Action, Emit, Fail, Move, Release, Replan, Send
from segue.router.choice_timings import ChoiceTimings
from segue.router.legs import Legs, choose_path
from segue.router.limits import shown_s
from segue.router.planner import Plan
from segue.router.prompt_tokens import PromptTokens
from segue.router.text.choice import ChoiceText

_FAILURES = (FINISH_REASON_ABORT, FINISH_REASON_ERROR)


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
    """One answer. Times are of one monotonic clock, the caller's.

    ``held`` is the ticket of a KV cache that nobody is known to have consumed: its lease is to be renewed.
    """

    def __init__(self, spec: ChoiceSpec, text: ChoiceText, now_s: float) -> None:
        self.run_id = spec.run_id
        self.phase = Phase.WAITING
        self.plan = Plan(None, "")
        self.output_tokens = 0
        self.path, reason = choose_path(spec.sampling)
        self.timings = ChoiceTimings(reason, now_s)
        self.held: HeldTicket | None = None
        self._claimed: list[Ticket] = []
        self._spec = spec
        self._text = text
        self._legs = Legs(
            PromptTokens.of(spec.prompt), spec.sampling, exact=self.path == Path.PATH_EXACT, priority=spec.priority
        )
        self._leg = 0
        self._output: list[int] = []
        self._to_replay = 0
        self._asked_to_move = 0
        self._plain = False  # Nothing but text is to come of a token now: see push_plain.

    @property
    def leg_id(self) -> str:
        return f"{self.run_id}.{self._leg}"

    @property
    def index(self) -> int:
        return self._spec.index

    @property
    def worker_id(self) -> str | None:
        """Who has the answer now."""
        if self.phase is Phase.PREFILL:
            return self.plan.prefill_id
        return self.plan.decode_id if self.phase is Phase.DECODE else None

    @property
    def prompt_tokens(self) -> int:
        return len(self._spec.prompt)

    @property
    def producer_id(self) -> str | None:
        """Whose KV cache decode was given."""
        if self.held is not None:
            return self.held.ticket.producer_id
        return self._claimed[-1].producer_id if self._claimed else None

    @property
    def movable(self) -> bool:
        """Whether decode's KV cache, moved to another worker, would spare that one work: not if it must replay."""
        return self.phase is Phase.DECODE and not self._legs.exact

    def go_on(self, plan: Plan, now_s: float) -> list[Action]:
        """Begin, or continue behind the tokens that there are. A ticket still on offer is used before a new prefill."""
        self._leg += 1
        self.plan = plan
        self.timings.on_plan(plan.reason if plan.prefill_id is None else "")
        self.timings.on_sent(now_s)
        if self.held is not None or plan.prefill_id is None:
            return self._to_decode(now_s)
        self.phase = Phase.PREFILL
        return [Send(plan.prefill_id, self._legs.prefill(self.leg_id, self._output, self._left_s(now_s)))]

    def on_output(self, worker_id: str, output: RequestOutput, now_s: float) -> list[Action]:
        """Outputs of an earlier leg, or of a worker that is not the present phase's, are late: only their tickets
        count."""
        if worker_id != self.worker_id or output.request_id != self.leg_id:
            return [Release(worker_id, output.offer)] if output.HasField("offer") else []
        if output.finish_reason in _FAILURES or output.HasField("error"):
            return self._on_failure(worker_id, output, now_s)
        if self.phase is Phase.PREFILL:
            return self._on_token_1(output, now_s)
        return self._on_tokens(output, now_s)

    def push_plain(self, token_id: int) -> str | None:
        """One token of the present decode leg and nothing with it: the text it adds, to be shown as it is.

        The short way of :meth:`on_output`, for most tokens of an answer; None, and nothing has happened, where the
        long one must be taken. Tell ``timings`` too.
        """
        if not self._plain or self.phase is not Phase.DECODE:
            return None
        self._output.append(token_id)
        self.output_tokens += 1
        return self._text.push_plain(token_id)

    def move(self) -> list[Action]:
        """Have a draining decode worker hand over what it has: asked once a leg, and only where it spares work."""
        if not self.movable or self._asked_to_move == self._leg:
            return []
        self._asked_to_move = self._leg
        return [Move(self.plan.decode_id, self.leg_id)]

    def cancel(self) -> list[Action]:
        """Give up: frees whatever is held for the answer, on the way between two workers too."""
        worker_id, leg_id = self.worker_id, self.leg_id
        self.phase = Phase.OVER
        aborts: list[Action] = [] if worker_id is None else [Abort(worker_id, leg_id)]
        return aborts + self._release()

    def on_deadline(self, timeout_s: float) -> list[Action]:
        if self.phase is Phase.OVER:
            return []
        phase = self.phase.value
        message = (
            f"the request's {shown_s(timeout_s)} s passed during {phase}, after {self.output_tokens} output tokens"
        )
        return [*self.cancel(), Fail(DeadlineExceeded(message))]

    def on_worker_lost(self, worker_id: str, why: str = "was lost while it worked on the request") -> list[Action]:
        if self.held is not None and self.held.ticket.producer_id == worker_id:
            self.held.producer_lost()
            self.held = None
        if worker_id != self.worker_id:
            return []
        message = f"{self.phase.value} worker {worker_id} {why}"
        return self._interrupt(worker_id, Unavailable(message), at_fault=True)

    def _on_failure(self, worker_id: str, output: RequestOutput, now_s: float) -> list[Action]:
        """A fault of the request ends it; one of the worker's, or a move, interrupts it."""
        kind = output.error.kind
        if kind in (RequestError.KIND_INVALID, RequestError.KIND_DEADLINE):
            self.phase = Phase.OVER
            late = [Release(worker_id, output.offer)] if output.HasField("offer") else []
            return [*late, *self._release(), Fail(_segue_error(worker_id, output))]
        actions: list[Action] = []
        if output.token_ids and self.phase is Phase.DECODE:  # Sampled before the worker stopped.
            sampled = RequestOutput(token_ids=output.token_ids, logprobs=output.logprobs)
            actions = [action for action in self._on_tokens(sampled, now_s) if not isinstance(action, Abort)]
        if output.HasField("offer"):
            if self.movable:
                actions += self._release()
                self.held = HeldTicket(output.offer, now_s)
            else:
                actions.append(Release(worker_id, output.offer))
        if self.phase is Phase.OVER:  # By a stop string among those tokens.
            return actions
        moved = output.finish_reason == FINISH_REASON_ABORT and not output.HasField("error")
        return actions + self._interrupt(worker_id, _segue_error(worker_id, output), at_fault=not moved)

    def _interrupt(self, worker_id: str, error: SegueError, *, at_fault: bool) -> list[Action]:
        self.phase = Phase.WAITING
        self.timings.on_interruption(
            Continuation(worker=worker_id, reason=str(error), after_output_tokens=self.output_tokens)
        )
        return [Replan(worker_id, error, at_fault)]

    def _release(self) -> list[Action]:
        held, self.held = self.held, None
        return [Release(held.ticket.producer_id, held.ticket)] if held is not None and held.end() else []

    def _left_s(self, now_s: float) -> float:
        return self._spec.deadline_s - now_s

    def _to_decode(self, now_s: float) -> list[Action]:
        self.phase = Phase.DECODE
        self._plain = False
        if self.held is None:
            self.path = Path.PATH_RECOMPUTED if self._output else Path.PATH_LOCAL
        else:
            self.held.assign()
        ticket = None if self.held is None else self.held.ticket
        self._to_replay = len(self._output) if self._legs.exact else 0
        submit = self._legs.decode(self.leg_id, self._output, ticket, self._left_s(now_s))
        return [Send(self.plan.decode_id, submit)]

    def _on_token_1(self, output: RequestOutput, now_s: float) -> list[Action]:
        """Of a continuation too: there it is the token behind those that the client has."""
        worker_id = str(self.plan.prefill_id)
        if len(output.token_ids) != 1:
            message = f"prefill worker {worker_id} gave {len(output.token_ids)} tokens, expected 1"
            late = [Release(worker_id, output.offer)] if output.HasField("offer") else []
            return [*late, *self._interrupt(worker_id, InternalError(message), at_fault=True)]
        self.held = HeldTicket(output.offer, now_s) if output.HasField("offer") else None
        if self._legs.exact and self._output:
            return self._to_decode(now_s)  # The token is another draw of one that the client has.
        self.timings.on_token_1(worker_id, output, now_s)
        by_stop = output.finish_reason == FINISH_REASON_STOP
        by_length = len(self._output) + 1 == self._spec.sampling.max_tokens
        first = not self._output
        ended, actions = self._emit(output, output.token_ids, output.logprobs, by_stop, by_length)
        if ended:
            if first:
                self.path = Path.PATH_PREFILL_ONLY
            return [*actions, *self._release()]
        # Decode first: whoever cancels on seeing token 1 then aborts a worker that has the ticket.
        return [*self._to_decode(now_s), *actions]

    def _on_tokens(self, output: RequestOutput, now_s: float) -> list[Action]:
        self.timings.on_tokens(self.plan.decode_id, output, now_s)
        if self.held is not None:  # Decode has it, or could not get it and has given it back.
            self.held.consumed()
            self._claimed, self.held = [self.held.ticket], None
        late: list[Action] = []
        if output.HasField("transfer") and output.transfer.error:
            self.path = Path.PATH_RECOMPUTED
            # Decode has given it back, but perhaps over the link that has just failed it; ours is another one.
            late += [Release(ticket.producer_id, ticket) for ticket in self._claimed]
        token_ids: Sequence[int] = output.token_ids
        logprobs: Sequence[PositionLogprobs] = output.logprobs
        if self._to_replay and token_ids:
            begin = len(self._output) - self._to_replay
            replayed = min(self._to_replay, len(token_ids))
            expected = self._output[begin : begin + replayed]
            if list(token_ids[:replayed]) != expected:
                message = (
                    f"decode worker {self.plan.decode_id} replayed tokens {list(token_ids[:replayed])}, but the client "
                    f"has seen {expected}"
                )
                return [*self.cancel(), Fail(InternalError(message))]
            self._to_replay -= replayed
            token_ids, logprobs = token_ids[replayed:], logprobs[replayed:]
        self._plain = not self._to_replay and self._text.plain
        finish = output.finish_reason
        by_stop, by_length = finish == FINISH_REASON_STOP, finish == FINISH_REASON_LENGTH
        ended, actions = self._emit(output, token_ids, logprobs, by_stop, by_length)
        if ended and not finish:  # A stop string, which the engine knows nothing of.
            actions.append(Abort(self.plan.decode_id, self.leg_id))
        return [*late, *actions]

    def _emit(
        self,
        output: RequestOutput,
        token_ids: Sequence[int],
        logprobs: Sequence[PositionLogprobs],
        by_stop: bool,
        by_length: bool,
    ) -> tuple[bool, list[Action]]:
        """The client's part of an output, and whether the answer is over with it."""
        self._output.extend(token_ids)
        piece = self._text.push(token_ids, ends_with_stop_token=by_stop)
        text, stop = piece.text, piece.stop
        if stop is None and (by_stop or by_length):
            text += self._text.finish()
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
        if output.finish_reason == FINISH_REASON_ABORT:
            return Unavailable(f"worker {worker_id} gave the request back")
        message = f"worker {worker_id} ended the request with {FinishReason.Name(output.finish_reason)} and no error"
    if error.kind == RequestError.KIND_INVALID:
        return InvalidRequest(error.message)
    if error.kind == RequestError.KIND_UNAVAILABLE:
        return Unavailable(message)
    if error.kind == RequestError.KIND_DEADLINE:
        return DeadlineExceeded(message)
    return InternalError(message)
