"""A model of one answer: what the workers have given, and what its client may see."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant

from segue.base.errors import SegueError
from segue.proto.inference_pb2 import ChoiceDelta
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import FinishReason, SamplingParams
from segue.proto.worker_pb2 import RequestOutput, Submit
from segue.router.lifecycle.actions import Abort, Action, Emit, Fail, Move, Release, Replan, Send
from segue.router.lifecycle.choice_run import ChoiceRun, ChoiceSpec, Phase
from segue.router.planning.planner import Plan
from segue.router.text.choice import ChoiceText
from tests.router.core.answer_text import EOS, LENGTH, PROMPT, STOP, expected, logprob, tiny_codec


class AnswerModel(RuleBasedStateMachine):
    """The state that the rules change, and the invariants that must hold after each of them.

    ``leg`` is the last work that was sent, as long as its worker may speak of it.
    """

    @initialize(
        max_tokens=st.integers(1, 9),
        exact=st.booleans(),
        stops=st.lists(st.sampled_from(["ab", "bca", "c", "aab", "\u00e9a"]), max_size=2, unique=True),
        min_tokens=st.integers(0, 3),
        local=st.booleans(),
    )
    def begin(self, max_tokens: int, exact: bool, stops: list[str], min_tokens: int, local: bool) -> None:
        self.exact = exact
        self.max_tokens = max_tokens
        self.stops = stops
        self.min_tokens = min(min_tokens, max_tokens)
        sampling = SamplingParams(max_tokens=max_tokens, min_tokens=self.min_tokens, stop=stops, logprobs=0)
        if exact:
            sampling.seed = 5
        spec = ChoiceSpec("run-0", 3, PROMPT, sampling, deadline_s=100.0)
        text = ChoiceText(tiny_codec(), stops=stops, min_tokens=self.min_tokens, prompt=spec.prompt)
        self.run = ChoiceRun(spec, text, 0.0)
        self.produced: list[int] = []  # The answer as the workers' model has it.
        self.finish = FinishReason.FINISH_REASON_UNSPECIFIED
        self.deltas: list[ChoiceDelta] = []
        self.errors: list[SegueError] = []
        self.cancelled = False
        self.leg: tuple[str, Submit] | None = None
        self.old_legs: list[tuple[str, str]] = []
        self.tickets: dict[str, str] = {}  # Ticket -> "offered", "claimed", "released" or "lost".
        self.producers: dict[str, str] = {}
        self.replay: list[int] = []
        self.replans = 0
        self.moves = 0
        self.go_on(local)

    def go_on(self, local: bool) -> None:
        workers = len(self.old_legs)
        plan = Plan(None if local else f"prefill-{workers}", f"decode-{workers}")
        had_ticket = self.run.held is not None
        self.take(self.run.go_on(plan, 1.0))
        assert self.leg is not None
        assert self.leg[0] == (plan.decode_id if local or had_ticket else plan.prefill_id)

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(worker_id=worker_id, submit=submit):
                    assert not self.over, "work sent for an answer that is over"
                    self.sent(worker_id, submit)
                case Abort(worker_id=worker_id, request_id=request_id):
                    assert self.leg is not None
                    assert (worker_id, request_id) == (self.leg[0], self.leg[1].request_id)
                    self.leave()
                case Release(worker_id=worker_id, ticket=ticket):
                    assert worker_id == ticket.producer_id
                    self.tickets[ticket.ticket_id] = "released"
                case Emit(delta=delta):
                    assert not self.over
                    self.deltas.append(delta)
                case Fail(error=error):
                    assert not self.over
                    self.errors.append(error)
                case Replan(worker_id=worker_id):
                    assert self.leg is None
                    assert worker_id == self.old_legs[-1][0]
                    self.replans += 1
                case Move(worker_id=worker_id, request_id=request_id):
                    assert self.leg is not None
                    assert (worker_id, request_id) == (self.leg[0], self.leg[1].request_id)
                    self.moves += 1

    def sent(self, worker_id: str, submit: Submit) -> None:
        """What must be true of any leg."""
        output = list(submit.input_token_ids[len(PROMPT) :])
        known = self.produced
        assert tuple(submit.input_token_ids[: len(PROMPT)]) == PROMPT
        assert submit.timeout_s == 99.0
        assert (worker_id, submit.request_id) not in self.old_legs, "late words of an earlier leg can be told apart"
        assert not submit.sampling.stop
        if self.exact:
            assert output == []
        else:
            assert output == known
        if worker_id.startswith("prefill"):
            assert submit.sampling.max_tokens == 1
            assert not submit.HasField("ticket")
            assert submit.offer_kv or len(known) + 1 == self.max_tokens
        else:
            assert list(submit.forced_token_ids) == (known if self.exact else [])
            assert submit.sampling.max_tokens == self.max_tokens - (0 if self.exact else len(known))
            if submit.HasField("ticket"):
                assert self.tickets[submit.ticket.ticket_id] == "offered"
            self.replay = list(submit.forced_token_ids)
        if self.leg is not None:
            self.leave()
        self.leg = worker_id, submit

    def leave(self) -> None:
        assert self.leg is not None
        self.old_legs.append((self.leg[0], self.leg[1].request_id))
        self.leg = None

    @property
    def over(self) -> bool:
        return bool(self.errors) or self.cancelled or bool(self.deltas and self.deltas[-1].finish_reason)

    def output(self, tokens: Sequence[int] = (), finish: int = 0, *, ticket: bool = False) -> RequestOutput:
        """Of the present leg."""
        assert self.leg is not None
        worker_id, submit = self.leg
        output = RequestOutput(
            request_id=submit.request_id,
            token_ids=tokens,
            logprobs=map(logprob, tokens),
            finish_reason=finish,  # type: ignore[arg-type]
        )
        if finish == STOP:
            output.stop_token_id = EOS
        if ticket:
            output.offer.CopyFrom(self.new_ticket(worker_id))
        return output

    def new_ticket(self, worker_id: str) -> Ticket:
        ticket_id = f"kv-{len(self.tickets)}"
        self.tickets[ticket_id] = "offered"
        self.producers[ticket_id] = worker_id
        return Ticket(ticket_id=ticket_id, tokens=3, producer_id=worker_id)

    def hear(self, output: RequestOutput) -> None:
        """What the present leg's worker says; with its last word it has nothing of the answer any more."""
        assert self.leg is not None
        worker_id = self.leg[0]
        if output.finish_reason:
            self.leave()
        self.take(self.run.on_output(worker_id, output, 1.0))

    def known_ticket(self) -> str | None:
        return None if self.run.held is None else self.run.held.ticket.ticket_id

    def prefilling(self) -> bool:
        return self.leg is not None and self.leg[0].startswith("prefill") and not self.over

    def decoding(self) -> bool:
        return self.leg is not None and self.leg[0].startswith("decode") and not self.over

    def only_kv(self) -> bool:
        return self.exact and bool(self.produced)

    def left(self) -> int:
        return self.max_tokens - len(self.produced)

    @invariant()
    def it_is_over_exactly_once(self) -> None:
        ends = len(self.errors) + sum(bool(delta.finish_reason) for delta in self.deltas) + self.cancelled
        assert ends == (self.run.phase is Phase.OVER)

    @invariant()
    def nobody_holds_anything_for_an_answer_that_is_over(self) -> None:
        if self.over:
            assert self.leg is None
            assert self.run.held is None

    @invariant()
    def every_ticket_is_claimed_released_or_known(self) -> None:
        known = self.known_ticket()
        assert [name for name, state in self.tickets.items() if state == "offered"] == ([known] if known else [])

    @invariant()
    def somebody_works_on_it_or_is_looked_for(self) -> None:
        assert self.over or (self.leg is None) == (self.run.phase is Phase.WAITING)

    @invariant()
    def the_client_sees_the_workers_answer(self) -> None:
        tokens = [token for delta in self.deltas for token in delta.token_ids]
        logprobs = [entry.sampled.token_id for delta in self.deltas for entry in delta.logprobs]
        text = "".join(delta.text for delta in self.deltas)
        count, whole, stop = expected(self.produced, self.stops, self.min_tokens, self.finish)
        assert tokens == logprobs == self.produced[: len(tokens)]
        assert self.run.output_tokens == len(tokens)
        assert whole.startswith(text)
        assert all(delta.index == 3 for delta in self.deltas)
        finished = bool(self.deltas) and self.deltas[-1].finish_reason
        if not finished:
            assert stop is None
            return
        assert (len(tokens), text) == (count, whole)
        last = self.deltas[-1]
        assert last.finish_reason == (LENGTH if stop is None and self.finish == LENGTH else STOP)
        assert last.stop_string == (stop or "")
        assert last.stop_token_id == (EOS if stop is None and self.finish == STOP else 0)

    @invariant()
    def nothing_is_late(self) -> None:
        """Until the answer is over, all that was produced has been given."""
        if not self.over:
            assert [token for delta in self.deltas for token in delta.token_ids] == self.produced
