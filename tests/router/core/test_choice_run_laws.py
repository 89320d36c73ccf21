"""One answer through every order of events, against a model of both workers and of what the client may see."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule

from segue.base.errors import DeadlineExceeded, InternalError, InvalidRequest
from segue.proto.inference_pb2 import Path
from segue.proto.sampling_pb2 import FinishReason
from segue.proto.worker_pb2 import RequestError, RequestOutput, Submit, Transfer
from tests.router.core.answer_model import AnswerModel
from tests.router.core.answer_text import EOS, LENGTH, STOP, alphabet

ABORTED, FAILED = FinishReason.FINISH_REASON_ABORT, FinishReason.FINISH_REASON_ERROR


class AnswerMachine(AnswerModel):
    """Rules are what workers, the planner, the client and the clock may do."""

    # What prefill may do.

    @precondition(AnswerModel.prefilling)
    @rule(token=st.sampled_from(range(5)), ticket=st.sampled_from([True, True, True, False]))
    def prefill_gives_a_token(self, token: int, ticket: bool) -> None:
        id_ = list(alphabet())[token]
        if not self.only_kv():
            self.produced.append(id_)
            if self.left() == 0:
                self.finish = LENGTH
        self.hear(self.output([id_], LENGTH, ticket=ticket and self.left() > 0))

    @precondition(lambda self: self.prefilling() and len(self.produced) >= self.min_tokens and not self.only_kv())
    @rule(ticket=st.booleans())
    def prefill_ends_the_answer(self, ticket: bool) -> None:
        first = not self.produced
        self.produced.append(EOS)
        self.finish = STOP
        self.hear(self.output([EOS], STOP, ticket=ticket))
        assert self.over
        assert (self.run.path == Path.PATH_PREFILL_ONLY) == first

    @precondition(AnswerModel.prefilling)
    @rule(tokens=st.sampled_from([0, 2]), ticket=st.booleans())
    def prefill_gives_not_one_token(self, tokens: int, ticket: bool) -> None:
        before = self.replans
        self.hear(self.output(list(alphabet())[:tokens], LENGTH, ticket=ticket))
        assert self.replans == before + 1

    # What decode may do.

    @precondition(AnswerModel.decoding)
    @rule(
        tokens=st.lists(st.sampled_from(range(5)), max_size=4),
        replayed=st.integers(0, 9),
        ends=st.booleans(),
        transfer=st.sampled_from([None, "", "pull failed"]),
    )
    def decode_gives_tokens(self, tokens: list[int], replayed: int, ends: bool, transfer: str | None) -> None:
        """A part of what it must replay, or all of it and more."""
        replay, self.replay = self.replay[:replayed], self.replay[replayed:]
        ids = [list(alphabet())[token] for token in tokens][: self.left()] if not self.replay else []
        finish = FinishReason.FINISH_REASON_UNSPECIFIED
        if not self.replay and len(ids) == self.left():
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

    @precondition(lambda self: self.decoding() and bool(self.replay))
    @rule(ends=st.booleans())
    def decode_replays_another_token(self, ends: bool) -> None:
        other = next(id_ for id_ in alphabet() if id_ != self.replay[0])
        before = len(self.deltas)
        self.claim()
        assert self.leg is not None
        self.take(self.run.on_output(self.leg[0], self.output([other], LENGTH if ends else 0), 1.0))
        assert isinstance(self.errors[-1], InternalError)
        assert len(self.deltas) == before

    @precondition(AnswerModel.decoding)
    @rule(ticket=st.booleans(), tokens=st.lists(st.sampled_from(range(5)), max_size=2))
    def decode_is_moved(self, ticket: bool, tokens: list[int]) -> None:
        """It stops, perhaps with a last word, and offers what it has; the next worker goes on from there."""
        ids = [list(alphabet())[token] for token in tokens][: self.left() - 1] if not self.replay else []
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


AnswerMachine.TestCase.settings = settings(
    max_examples=300, stateful_step_count=16, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestAnswers = AnswerMachine.TestCase
