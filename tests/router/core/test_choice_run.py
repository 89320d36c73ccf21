"""One answer through every order of events, against a model of both workers and of what the client may see."""

from __future__ import annotations

from codecs import utf_8_decode
from collections.abc import Sequence
from functools import cache

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from segue.base.errors import DeadlineExceeded, InternalError, InvalidRequest, SegueError, Unavailable
from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.inference_pb2 import ChoiceDelta, Path
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import FinishReason, PositionLogprobs, SamplingParams, TokenLogprob
from segue.proto.worker_pb2 import EngineUsage, RequestError, RequestOutput, Submit, Transfer
from segue.router.choice_run import Abort, Action, ChoiceRun, ChoiceSpec, Emit, Fail, Phase, Release, Send
from segue.router.planner import Plan
from segue.router.text.choice import ChoiceText
from segue.router.text.tokenizer import TextCodec

PREFILL, DECODE = "prefill-0", "decode-0"
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
    return utf_8_decode(b"".join(alphabet()[token] for token in tokens), "replace", False)[0]


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
    whole = b"".join(alphabet()[token] for token in words)
    return len(tokens), whole.decode("utf-8", "replace") if finish else readable(words), None


class AnswerMachine(RuleBasedStateMachine):
    """Rules are what workers, the client and the clock may do; invariants what must hold after each."""

    @initialize(
        max_tokens=st.integers(1, 9),
        exact=st.booleans(),
        stops=st.lists(st.sampled_from(["ab", "bca", "c", "aab", "\u00e9a"]), max_size=2, unique=True),
        min_tokens=st.integers(0, 3),
    )
    def begin(self, max_tokens: int, exact: bool, stops: list[str], min_tokens: int) -> None:
        self.exact = exact
        self.max_tokens = max_tokens
        self.stops = stops
        self.min_tokens = min(min_tokens, max_tokens)
        sampling = SamplingParams(max_tokens=max_tokens, min_tokens=self.min_tokens, stop=stops, logprobs=0)
        if exact:
            sampling.seed = 5
        spec = ChoiceSpec("run-0", 3, (7, 8, 9), sampling, Plan(PREFILL, DECODE), deadline_s=100.0)
        text = ChoiceText(tiny_codec(), stops=stops, min_tokens=self.min_tokens, prompt=spec.prompt)
        self.run = ChoiceRun(spec, text, 0.0)
        self.produced: list[int] = []  # The answer as the workers' model has it.
        self.finish = FinishReason.FINISH_REASON_UNSPECIFIED
        self.deltas: list[ChoiceDelta] = []
        self.errors: list[SegueError] = []
        self.cancelled = False
        self.submits: dict[str, Submit] = {}
        self.holders: set[str] = set()  # Workers that may hold something for the answer.
        self.tickets: dict[str, str] = {}  # Ticket -> "offered", "sent" or "released".
        self.decode_spoke = False
        self.replayed = False
        self.take(self.run.begin(0.0))
        assert self.holders == {PREFILL}
        submit = self.submits[PREFILL]
        assert (tuple(submit.input_token_ids), submit.timeout_s) == ((7, 8, 9), 100.0)
        assert submit.offer_kv == (max_tokens > 1)

    def take(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Send(worker_id=worker_id, submit=submit):
                    assert not self.over, "work sent for an answer that is over"
                    self.submits[worker_id] = submit
                    self.holders.add(worker_id)
                    if submit.HasField("ticket"):
                        assert self.tickets[submit.ticket.ticket_id] == "offered"
                        self.tickets[submit.ticket.ticket_id] = "sent"
                case Abort(worker_id=worker_id, request_id=request_id):
                    assert request_id == "run-0"
                    self.holders.discard(worker_id)
                case Release(worker_id=worker_id, ticket=ticket):
                    assert worker_id == PREFILL
                    self.tickets[ticket.ticket_id] = "released"
                case Emit(delta=delta):
                    assert not self.over
                    self.deltas.append(delta)
                case Fail(error=error):
                    assert not self.over
                    self.errors.append(error)

    @property
    def over(self) -> bool:
        return bool(self.errors) or self.cancelled or bool(self.deltas and self.deltas[-1].finish_reason)

    def output(self, tokens: Sequence[int] = (), finish: int = 0, *, ticket: bool = False) -> RequestOutput:
        output = RequestOutput(
            request_id="run-0",
            token_ids=tokens,
            logprobs=map(logprob, tokens),
            finish_reason=finish,  # type: ignore[arg-type]
        )
        if finish == STOP:
            output.stop_token_id = EOS
        if ticket:
            ticket_id = f"kv-{len(self.tickets)}"
            self.tickets[ticket_id] = "offered"
            output.offer.CopyFrom(Ticket(ticket_id=ticket_id, tokens=3))
        return output

    def hear(self, worker_id: str, output: RequestOutput, now_s: float = 1.0) -> None:
        if output.finish_reason:
            self.holders.discard(worker_id)
        self.take(self.run.on_output(worker_id, output, now_s))

    def _prefilling(self) -> bool:
        return PREFILL in self.holders and not self.over

    def _decoding(self) -> bool:
        return DECODE in self.holders and not self.over

    def _left(self) -> int:
        return self.max_tokens - len(self.produced)

    # What prefill may do.

    @precondition(_prefilling)
    @rule(token=st.sampled_from(range(5)))
    def prefill_gives_token_1(self, token: int) -> None:
        id_ = list(alphabet())[token]
        self.produced.append(id_)
        if self.max_tokens == 1:
            self.finish = LENGTH
        self.hear(PREFILL, self.output([id_], LENGTH, ticket=self.max_tokens > 1))
        if not self.over:
            submit = self.submits[DECODE]
            assert list(submit.input_token_ids) == ([7, 8, 9] if self.exact else [7, 8, 9, id_])
            assert list(submit.forced_token_ids) == ([id_] if self.exact else [])
            assert submit.timeout_s == 99.0
            assert submit.sampling.max_tokens == self.max_tokens - (0 if self.exact else 1)

    @precondition(lambda self: self._prefilling() and self.min_tokens == 0)
    @rule(ticket=st.booleans())
    def prefill_ends_the_answer(self, ticket: bool) -> None:
        self.produced.append(EOS)
        self.finish = STOP
        self.hear(PREFILL, self.output([EOS], STOP, ticket=ticket))
        assert self.over
        assert self.run.path == Path.PATH_PREFILL_ONLY

    @precondition(_prefilling)
    @rule(tokens=st.sampled_from([0, 2]), ticket=st.booleans())
    def prefill_gives_not_one_token(self, tokens: int, ticket: bool) -> None:
        self.hear(PREFILL, self.output(list(alphabet())[:tokens], LENGTH, ticket=ticket))
        assert isinstance(self.errors[-1], InternalError)

    @precondition(lambda self: self._prefilling() and self.max_tokens > 1)
    @rule()
    def prefill_forgets_the_ticket(self) -> None:
        id_ = next(iter(alphabet()))
        self.produced.append(id_)
        self.hear(PREFILL, self.output([id_], LENGTH))
        assert self.over

    # What decode may do.

    @precondition(_decoding)
    @rule(
        tokens=st.lists(st.sampled_from(range(5)), max_size=4),
        ends=st.booleans(),
        transfer=st.sampled_from([None, "", "pull failed"]),
    )
    def decode_gives_tokens(self, tokens: list[int], ends: bool, transfer: str | None) -> None:
        ids = [list(alphabet())[token] for token in tokens][: self._left()]
        finish = FinishReason.FINISH_REASON_UNSPECIFIED
        if len(ids) == self._left():
            finish = LENGTH
        elif ends and len(self.produced) + len(ids) >= self.min_tokens:
            ids.append(EOS)
            finish = STOP
        self.produced += ids
        self.finish = finish
        replay = [self.produced[0]] if self.exact and not self.replayed else []
        self.replayed = True
        output = self.output([*replay, *ids], finish)
        if transfer is not None:
            output.transfer.CopyFrom(Transfer(transport="grpc", error=transfer))
        self.decode_spoke = True
        self.hear(DECODE, output)
        if finish:
            assert self.over

    @precondition(lambda self: self._decoding() and self.exact and not self.replayed)
    @rule(failed_transfer=st.booleans(), ends=st.booleans())
    def decode_replays_another_token(self, failed_transfer: bool, ends: bool) -> None:
        other = next(id_ for id_ in alphabet() if id_ != self.produced[0])
        output = self.output([other], LENGTH if ends else 0)
        if failed_transfer:
            output.transfer.error = "pull failed"
        self.decode_spoke = True
        before = len(self.deltas)
        self.hear(DECODE, output)
        assert isinstance(self.errors[-1], InternalError)
        assert len(self.deltas) == before

    # What either may do.

    @precondition(lambda self: bool(self.holders) and not self.over)
    @rule(
        kind=st.sampled_from(RequestError.Kind.values()),
        how=st.sampled_from(["error", "error without a word", "aborted"]),
    )
    def the_worker_in_charge_fails(self, kind: int, how: str) -> None:
        worker_id = DECODE if DECODE in self.holders else PREFILL
        output = self.output([], ABORTED if how == "aborted" else FAILED)
        if how == "error":
            output.error.CopyFrom(RequestError(kind=kind, message="out of order"))  # type: ignore[arg-type]
        self.hear(worker_id, output)
        assert len(self.errors) == 1
        if how == "error":
            by_kind = {
                RequestError.KIND_INVALID: InvalidRequest,
                RequestError.KIND_UNAVAILABLE: Unavailable,
                RequestError.KIND_DEADLINE: DeadlineExceeded,
            }
            assert isinstance(self.errors[0], by_kind.get(kind, InternalError))  # type: ignore[call-overload]
            assert "out of order" in self.errors[0].message
        else:
            assert worker_id in self.errors[0].message
        if worker_id == DECODE and not self.decode_spoke:
            assert set(self.tickets.values()) == {"released"}

    @rule(worker_id=st.sampled_from([PREFILL, DECODE, "elsewhere"]))
    def a_worker_is_lost(self, worker_id: str) -> None:
        was_over, held = self.over, worker_id in self.holders
        self.holders.discard(worker_id)
        self.take(self.run.on_worker_lost(worker_id))
        if was_over or not held:
            assert self.over == was_over
            return
        assert isinstance(self.errors[-1], Unavailable)
        assert worker_id in self.errors[-1].message
        if not self.decode_spoke:
            assert "sent" not in self.tickets.values(), "nobody will claim the ticket now"

    @rule(worker_id=st.sampled_from([PREFILL, DECODE, "elsewhere"]), ticket=st.booleans(), failed=st.booleans())
    def an_output_comes_from_whom_it_should_not(self, worker_id: str, ticket: bool, failed: bool) -> None:
        if worker_id in self.holders and not self.over:
            return
        output = self.output([next(iter(alphabet()))], FAILED if failed else LENGTH)
        if ticket and worker_id == PREFILL:
            output = self.output(output.token_ids, LENGTH, ticket=True)
        before = (len(self.deltas), len(self.errors))
        self.take(self.run.on_output(worker_id, output, 2.0))
        assert (len(self.deltas), len(self.errors)) == before

    # What the client and the clock may do.

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
            assert not self.holders
        assert "offered" not in self.tickets.values()

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
    max_examples=300, stateful_step_count=12, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnswers = AnswerMachine.TestCase


def new_run(**sampling: float) -> ChoiceRun:
    params = SamplingParams(max_tokens=4)
    for name, value in sampling.items():
        setattr(params, name, value)
    spec = ChoiceSpec("run-0", 0, (7, 8, 9), params, Plan(PREFILL, DECODE), deadline_s=100.0)
    return ChoiceRun(spec, ChoiceText(tiny_codec()), now_s=10.0)


def token_1(token: int = 300) -> RequestOutput:
    usage = EngineUsage(input_tokens=3, cached_tokens=2, computed_tokens=1)
    offer = Ticket(ticket_id="kv-0", tokens=3)
    return RequestOutput(token_ids=[token], finish_reason=LENGTH, offer=offer, usage=usage)


def test_token_1_goes_to_the_client_with_the_same_event_that_sends_decode_to_work() -> None:
    run = new_run()
    run.begin(10.0)
    actions = run.on_output(PREFILL, token_1(), 11.0)
    assert {type(action) for action in actions} == {Emit, Send}


def test_decode_is_told_before_the_client_so_that_a_cancel_by_the_client_reaches_it() -> None:
    run = new_run()
    run.begin(10.0)
    actions = run.on_output(PREFILL, token_1(), 11.0)
    assert [type(action) for action in actions] == [Send, Emit]
    assert run.cancel() == [Abort(DECODE, "run-0")]


def test_the_timings_tell_the_legs_apart() -> None:
    run = new_run()
    run.begin(10.0)
    run.on_output(PREFILL, token_1(), 10.5)
    run.on_output(DECODE, RequestOutput(token_ids=[301]), 10.75)
    run.on_output(DECODE, RequestOutput(token_ids=[302]), 11.0)
    last = RequestOutput(
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
    run = new_run() if seeded else new_run(seed=4)
    run.begin(10.0)
    run.on_output(PREFILL, token_1(), 10.5)
    tokens = [301, 302, 303] if seeded else [300, 301, 302, 303]
    output = RequestOutput(token_ids=tokens, finish_reason=LENGTH, transfer=Transfer(error="pull failed"))
    (emit,) = run.on_output(DECODE, output, 11.0)
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
    (send,) = run.begin(10.0)
    assert isinstance(send, Send)
    assert not send.submit.offer_kv
    run.on_output(PREFILL, RequestOutput(token_ids=[300], finish_reason=LENGTH), 10.5)
    timings = run.timings.message(run.path, run.output_tokens)
    assert (timings.path, timings.decode_worker, timings.itl_mean_s) == (Path.PATH_PREFILL_ONLY, "", 0)
