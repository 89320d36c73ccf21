"""One answer through every order of events, against a model of both workers and of what the client may see."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from segue.base.errors import DeadlineExceeded, InternalError, InvalidRequest, SegueError
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.inference_pb2 import ChoiceDelta, Path
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import FinishReason, PositionLogprobs, SamplingParams, TokenLogprob
from segue.proto.worker_pb2 import EngineUsage, RequestError, RequestOutput, Submit, Transfer
from segue.router.actions import Abort, Action, Emit, Fail, Move, Release, Replan, Send
from segue.router.choice_run import ChoiceRun, ChoiceSpec, Phase
from segue.router.planner import Plan
from segue.router.text.choice import ChoiceText
from segue.router.text.tokenizer import TextCodec

PREFILL, DECODE = "prefill-0", "decode-0"
PROMPT = (7, 8, 9)
EOS = 1
STOP, LENGTH = FinishReason.FINISH_REASON_STOP, FinishReason.FINISH_REASON_LENGTH
ABORTED, FAILED = FinishReason.FINISH_REASON_ABORT, FinishReason.FINISH_REASON_ERROR


@cache
def tiny_codec() -> TextCodec:
    return TextCodec.load(str(ensure_embedded_model()))


@cache
def alphabet() -> dict[int, bytes]:
    """Token ids of a few letters, and of the two halves of one character."""
    by_bytes = {value: id_ for id_, value in enumerate(tiny_codec().output_bytes) if value}
    return {by_bytes[value]: value for value in (b"a", b"b", b"c", b"\xc3", b"\xa9")}


def logprob(token_id: int) -> PositionLogprobs:
    return PositionLogprobs(sampled=TokenLogprob(token_id=token_id, logprob=-0.5, rank=1))


def readable(tokens: Sequence[int]) -> str:
    """Text of the tokens, without the beginning of a character that hasn't ended."""
    for count in range(len(tokens), 0, -1):
        data = b"".join(alphabet()[token] for token in tokens[:count])
        text, used = utf_8_decode(data, "replace", False)
        if used == len(data) and not text.endswith("\ufffd"):
            return text
    return ""


def expected(
    tokens: Sequence[int], stops: Sequence[str], min_tokens: int, finish: FinishReason
) -> tuple[int, str, str | None]:
    """By search in the whole text: how many tokens the client gets, its text, and the stop string that ended it."""
    words = tokens[:-1] if finish == STOP else tokens
    for count in range(min_tokens + 1, len(words) + 1):
        text = readable(words[:count])
        before = len(readable(words[: count - 1]))
        for end in range(before + 1, len(text) + 1):
            for stop in stops:
                if text[:end].endswith(stop):
                    return count, text[: end - len(stop)], stop
    return len(tokens), readable(words), None


class AnswerMachine(RuleBasedStateMachine):
    """Rules are what workers, the planner, the client and the clock may do; invariants what must hold after each.

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

    def _prefilling(self) -> bool:
        return self.leg is not None and self.leg[0].startswith("prefill") and not self.over

    def _decoding(self) -> bool:
        return self.leg is not None and self.leg[0].startswith("decode") and not self.over

    def _only_kv(self) -> bool:
        return self.exact and bool(self.produced)

    def _left(self) -> int:
        return self.max_tokens - len(self.produced)

    # What prefill may do.

    @precondition(_prefilling)
    @rule(token=st.sampled_from(range(5)), ticket=st.sampled_from([True, True, True, False]))
    def prefill_gives_a_token(self, token: int, ticket: bool) -> None:
        id_ = list(alphabet())[token]
        if not self._only_kv():
            self.produced.append(id_)
            if self._left() == 0:
                self.finish = LENGTH
        self.hear(self.output([id_], LENGTH, ticket=ticket and self._left() > 0))

    @precondition(lambda self: self._prefilling() and len(self.produced) >= self.min_tokens and not self._only_kv())
    @rule(ticket=st.booleans())
    def prefill_ends_the_answer(self, ticket: bool) -> None:
        first = not self.produced
        self.produced.append(EOS)
        self.finish = STOP
        self.hear(self.output([EOS], STOP, ticket=ticket))
        assert self.over
        assert (self.run.path == Path.PATH_PREFILL_ONLY) == first

    @precondition(_prefilling)
    @rule(tokens=st.sampled_from([0, 2]), ticket=st.booleans())
    def prefill_gives_not_one_token(self, tokens: int, ticket: bool) -> None:
        before = self.replans
        self.hear(self.output(list(alphabet())[:tokens], LENGTH, ticket=ticket))
        assert self.replans == before + 1

    # What decode may do.

    @precondition(_decoding)
    @rule(
        tokens=st.lists(st.sampled_from(range(5)), max_size=4),
        replayed=st.integers(0, 9),
        ends=st.booleans(),
        transfer=st.sampled_from([None, "", "pull failed"]),
    )
    def decode_gives_tokens(self, tokens: list[int], replayed: int, ends: bool, transfer: str | None) -> None:
        """A part of what it must replay, or all of it and more."""
        replay, self.replay = self.replay[:replayed], self.replay[replayed:]
        ids = [list(alphabet())[token] for token in tokens][: self._left()] if not self.replay else []
        finish = FinishReason.FINISH_REASON_UNSPECIFIED
        if not self.replay and len(ids) == self._left():
            finish = LENGTH
        elif not self.replay and ends and len(self.produced) + len(ids) >= self.min_tokens:
            ids.append(EOS)
            finish = STOP
        self.produced += ids
        self.finish = finish
        output = self.output([*replay, *ids], finish)
        if transfer is not None:
            output.transfer.CopyFrom(Transfer(transport="grpc", error=transfer))
        self.claim()
        self.hear(output)
        assert self.over or not finish

    def claim(self) -> None:
        """Decode speaks: it has had the blocks, or was refused them."""
        assert self.leg is not None
        if self.leg[1].HasField("ticket"):
            self.tickets[self.leg[1].ticket.ticket_id] = "claimed"

    @precondition(lambda self: self._decoding() and bool(self.replay))
    @rule(ends=st.booleans())
    def decode_replays_another_token(self, ends: bool) -> None:
        other = next(id_ for id_ in alphabet() if id_ != self.replay[0])
        before = len(self.deltas)
        self.claim()
        assert self.leg is not None
        self.take(self.run.on_output(self.leg[0], self.output([other], LENGTH if ends else 0), 1.0))
        assert isinstance(self.errors[-1], InternalError)
        assert len(self.deltas) == before

    @precondition(_decoding)
    @rule(ticket=st.booleans(), tokens=st.lists(st.sampled_from(range(5)), max_size=2))
    def decode_is_moved(self, ticket: bool, tokens: list[int]) -> None:
        """It stops, perhaps with a last word, and offers what it has; the next worker goes on from there."""
        ids = [list(alphabet())[token] for token in tokens][: self._left() - 1] if not self.replay else []
        moves = self.moves
        self.take(self.run.move())
        assert self.moves == moves + (not self.exact) * (self.moves_of_leg() == 0)
        self.asked = self.leg
        self.produced += ids
        replans = self.replans
        if ids:
            self.claim()
        output = self.output(ids, ABORTED, ticket=ticket)
        self.hear(output)
        assert self.over or self.replans == replans + 1
        if ticket and not self.over:
            assert self.known_ticket() == output.offer.ticket_id or self.exact

    asked: tuple[str, Submit] | None = None

    def moves_of_leg(self) -> int:
        return int(self.asked is not None and self.asked is self.leg)

    # What either may do.

    @precondition(lambda self: self.leg is not None and not self.over)
    @rule(kind=st.sampled_from(RequestError.Kind.values()), with_error=st.booleans())
    def the_worker_in_charge_fails(self, kind: int, with_error: bool) -> None:
        """The request's own faults end it; the worker's don't."""
        assert self.leg is not None
        worker_id, replans = self.leg[0], self.replans
        output = self.output([], FAILED)
        if with_error:
            output.error.CopyFrom(RequestError(kind=kind, message="out of order"))  # type: ignore[arg-type]
        self.hear(output)
        ends = {RequestError.KIND_INVALID: InvalidRequest, RequestError.KIND_DEADLINE: DeadlineExceeded}
        if with_error and kind in ends:
            assert isinstance(self.errors[-1], ends[kind])  # type: ignore[index]
            assert "out of order" in self.errors[-1].message
        else:
            assert not self.errors
            assert self.replans == replans + 1
            assert worker_id in self.run.timings.message(self.run.path, 0).continuations[-1].reason

    @rule(which=st.sampled_from(["present", "old", "elsewhere"]))
    def a_worker_is_lost(self, which: str) -> None:
        replans = self.replans
        if which == "present" and self.leg is not None and not self.over:
            worker_id = self.leg[0]
            self.leave()
            self.take(self.run.on_worker_lost(worker_id))
            assert self.replans == replans + 1
            return
        worker_id = self.old_legs[-1][0] if which == "old" and self.old_legs else "elsewhere"
        if self.leg is None or self.leg[0] != worker_id:
            assert self.run.on_worker_lost(worker_id) == []
            lost = [name for name, producer_id in self.producers.items() if producer_id == worker_id]
            self.tickets.update(dict.fromkeys(lost, "lost"))

    @precondition(lambda self: bool(self.old_legs))
    @rule(ticket=st.booleans(), failed=st.booleans(), data=st.data())
    def an_earlier_leg_speaks_late(self, ticket: bool, failed: bool, data: st.DataObject) -> None:
        worker_id, leg_id = data.draw(st.sampled_from(self.old_legs))
        finish = FAILED if failed else LENGTH
        output = RequestOutput(request_id=leg_id, token_ids=[next(iter(alphabet()))], finish_reason=finish)
        if ticket:
            output.offer.CopyFrom(self.new_ticket(worker_id))
        before = (len(self.deltas), len(self.errors), self.leg, self.known_ticket())
        self.take(self.run.on_output(worker_id, output, 2.0))
        assert (len(self.deltas), len(self.errors), self.leg, self.known_ticket()) == before
        if ticket:
            assert self.tickets[output.offer.ticket_id] == "released"

    # What the planner, the client and the clock may do.

    @precondition(lambda self: self.leg is None and not self.over)
    @rule(local=st.booleans())
    def other_workers_are_found(self, local: bool) -> None:
        self.go_on(local)

    @rule()
    def the_client_cancels(self) -> None:
        was_over = self.over
        self.take(self.run.cancel())
        self.cancelled = self.cancelled or not was_over

    @rule()
    def the_deadline_passes(self) -> None:
        was_over = self.over
        self.take(self.run.on_deadline(100.0))
        if not was_over:
            assert isinstance(self.errors[-1], DeadlineExceeded)
            assert "100 s" in self.errors[-1].message

    # What must hold.

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


AnswerMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=16, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnswers = AnswerMachine.TestCase


def new_run(**sampling: float) -> ChoiceRun:
    params = SamplingParams(max_tokens=4)
    for name, value in sampling.items():
        setattr(params, name, value)
    spec = ChoiceSpec("run-0", 0, PROMPT, params, deadline_s=100.0)
    return ChoiceRun(spec, ChoiceText(tiny_codec()), now_s=10.0)


def token_1(token: int = 300) -> RequestOutput:
    usage = EngineUsage(input_tokens=3, cached_tokens=2, computed_tokens=1)
    offer = Ticket(ticket_id="kv-0", tokens=3, producer_id=PREFILL)
    return RequestOutput(request_id="run-0.1", token_ids=[token], finish_reason=LENGTH, offer=offer, usage=usage)


def test_token_1_goes_to_the_client_with_the_same_event_that_sends_decode_to_work() -> None:
    run = new_run()
    run.go_on(Plan(PREFILL, DECODE), 10.0)
    actions = run.on_output(PREFILL, token_1(), 11.0)
    assert {type(action) for action in actions} == {Emit, Send}


def test_decode_is_told_before_the_client_so_that_a_cancel_by_the_client_reaches_it() -> None:
    run = new_run()
    run.go_on(Plan(PREFILL, DECODE), 10.0)
    actions = run.on_output(PREFILL, token_1(), 11.0)
    assert [type(action) for action in actions] == [Send, Emit]
    assert run.cancel() == [Abort(DECODE, "run-0.1"), Release(PREFILL, token_1().offer)]


def test_the_timings_tell_the_legs_apart() -> None:
    run = new_run()
    run.go_on(Plan(PREFILL, DECODE), 10.0)
    run.on_output(PREFILL, token_1(), 10.5)
    run.on_output(DECODE, RequestOutput(request_id="run-0.1", token_ids=[301]), 10.75)
    run.on_output(DECODE, RequestOutput(request_id="run-0.1", token_ids=[302]), 11.0)
    last = RequestOutput(
        request_id="run-0.1",
        token_ids=[303],
        finish_reason=LENGTH,
        usage=EngineUsage(computed_tokens=1),
        transfer=Transfer(transport="nixl", bytes=4096, seconds=0.125),
    )
    run.on_output(DECODE, last, 11.25)
    timings = run.timings.message(run.path, run.output_tokens)
    assert (timings.path, timings.path_reason, timings.transport) == (Path.PATH_SEEDED, "", "nixl")
    assert (timings.prefill_worker, timings.decode_worker) == (PREFILL, DECODE)
    assert (timings.ttft_s, timings.prefill_s, timings.handoff_s, timings.decode_s) == (0.5, 0.5, 0.25, 0.5)
    assert (timings.transfer_s, timings.transfer_bytes) == (0.125, 4096)
    assert timings.itl_mean_s == pytest.approx(0.25)
    assert (timings.prefill_computed_tokens, timings.decode_computed_tokens) == (1, 1)
    assert run.timings.cached_prompt_tokens == 2


@pytest.mark.parametrize("seeded", [True, False])
def test_a_transfer_that_failed_is_told_and_changes_no_token(seeded: bool) -> None:
    """The ticket is given back here too: decode may have no way to the producer."""
    run = new_run() if seeded else new_run(seed=4)
    run.go_on(Plan(PREFILL, DECODE), 10.0)
    run.on_output(PREFILL, token_1(), 10.5)
    tokens = [301, 302, 303] if seeded else [300, 301, 302, 303]
    output = RequestOutput(
        request_id="run-0.1", token_ids=tokens, finish_reason=LENGTH, transfer=Transfer(error="pull failed")
    )
    release, emit = run.on_output(DECODE, output, 11.0)
    assert release == Release(PREFILL, token_1().offer)
    assert isinstance(emit, Emit)
    assert list(emit.delta.token_ids) == [301, 302, 303]
    timings = run.timings.message(run.path, run.output_tokens)
    assert (timings.path, timings.path_reason) == (Path.PATH_RECOMPUTED, "pull failed")


def test_the_exact_path_says_why() -> None:
    run = new_run(seed=4, presence_penalty=1)
    assert run.path == Path.PATH_EXACT
    assert run.timings.message(run.path, 0).path_reason == "seed+presence_penalty"


def test_a_path_of_prefill_alone_names_no_decode_worker() -> None:
    run = new_run(max_tokens=1)
    (send,) = run.go_on(Plan(PREFILL, DECODE), 10.0)
    assert isinstance(send, Send)
    assert not send.submit.offer_kv
    run.on_output(PREFILL, RequestOutput(request_id="run-0.1", token_ids=[300], finish_reason=LENGTH), 10.5)
    timings = run.timings.message(run.path, run.output_tokens)
    assert (timings.path, timings.decode_worker, timings.itl_mean_s) == (Path.PATH_PREFILL_ONLY, "", 0)
