"""When an answer goes on elsewhere, and which workers are spared: all on a passed-in clock."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.proto.worker_pb2 import Load, Role, WorkerState
from segue.router.lifecycle.continuation import ContinuationPolicy, GiveUp, Interruption, Resume, Wait
from segue.router.planning.planner import Plan, Policy
from segue.router.planning.prediction import Ask
from segue.router.rates.lines import Line
from segue.router.rates.transfers import Links
from segue.router.workers.circuits import CircuitPolicy, Circuits
from segue.router.workers.fleet import FleetSnapshot, WorkerView
from tests.router.core.scripted import FACTS

POLICY = ContinuationPolicy(max_continuations=2, patience_s=5.0, backoff_min_s=0.1, backoff_max_s=1.0)


# As it would be after some transfers: 1 GB/s.
LINKS = Links(Line(0.0, 1e-9, 10))


def fleet(*worker_ids: str) -> FleetSnapshot:
    ready = WorkerState.WORKER_STATE_READY
    roles = {"prefill": Role.ROLE_PREFILL, "decode": Role.ROLE_DECODE}
    return FleetSnapshot(
        tuple(
            WorkerView(worker_id, "e", roles[worker_id.split("-")[0]], ready, "", "", FACTS, Load(), 0, 0)
            for worker_id in worker_ids
        ),
        LINKS,
    )


def interruption(*, times: int = 1, waited_s: float = 0.0, looks: int = 0, left: str = "decode-0") -> Interruption:
    return Interruption(times, waited_s, looks, frozenset({left}))


def test_it_goes_on_at_once_where_there_are_others() -> None:
    decision = POLICY.decide(interruption(), fleet("prefill-0", "decode-0", "decode-1"))
    assert decision == Resume(Plan("prefill-0", "decode-1"))


FOUR = fleet("prefill-0", "prefill-1", "decode-0", "decode-1", "decode-2")


def test_it_goes_on_where_its_prompt_is_cached() -> None:
    ask = Ask(3000, 100, {"prefill-1": 2944, "decode-2": 2944})
    assert POLICY.decide(interruption(), FOUR, ask) == Resume(Plan("prefill-1", "decode-2"))
    assert POLICY.decide(interruption(), FOUR, ask, Policy("load")) == Resume(Plan("prefill-0", "decode-1"))


def test_what_the_worker_that_it_left_has_cached_draws_nobody_back() -> None:
    ask = Ask(3000, 100, {"decode-0": 2944, "prefill-1": 2944})
    assert POLICY.decide(interruption(), FOUR, ask) == Resume(Plan("prefill-1", "decode-1"))


def test_with_the_whole_prompt_cached_on_decode_it_is_handed_off_all_the_same() -> None:
    """What decode computed of it would hold up the streams there; and a ticket that is left needs no prefill."""
    decision = POLICY.decide(interruption(), FOUR, Ask(3000, 100, {"decode-1": 3000}))
    assert decision == Resume(Plan("prefill-0", "decode-1"))


def test_without_a_prefill_worker_it_goes_on_with_decode_alone() -> None:
    assert POLICY.decide(interruption(left="prefill-0"), fleet("decode-0")) == Resume(Plan(None, "decode-0"))


def test_the_worker_that_failed_is_asked_again_only_after_a_while_and_if_there_is_no_other() -> None:
    only = fleet("prefill-0", "decode-0")
    assert isinstance(POLICY.decide(interruption(), only), Wait)
    assert POLICY.decide(interruption(looks=1), only) == Resume(Plan("prefill-0", "decode-0"))


def test_it_waits_longer_and_longer_for_a_pool_and_then_gives_up() -> None:
    waits = [POLICY.decide(interruption(looks=looks), fleet("prefill-0")) for looks in range(6)]
    assert waits == [Wait(0.1), Wait(0.2), Wait(0.4), Wait(0.8), Wait(1.0), Wait(1.0)]
    decision = POLICY.decide(interruption(waited_s=5.0, looks=9), fleet("prefill-0"))
    assert isinstance(decision, GiveUp)
    assert "no decode worker is ready" in decision.why


def test_an_answer_that_loses_one_worker_after_the_other_is_given_up() -> None:
    everybody = fleet("prefill-0", "decode-0", "decode-1")
    assert isinstance(POLICY.decide(interruption(times=2), everybody), Resume)
    assert isinstance(POLICY.decide(interruption(times=3), everybody), GiveUp)


CIRCUIT = CircuitPolicy(failures=2, open_s=1.0, open_max_s=3.0)


def test_a_worker_that_fails_in_a_row_is_spared_then_tried_with_one_request_then_trusted() -> None:
    circuits = Circuits(CIRCUIT)
    circuits.failed("w", 0.0)
    assert not circuits.spares("w", 0, 0.0)
    circuits.failed("w", 0.0)
    assert circuits.spares("w", 0, 0.9)
    assert not circuits.spares("w", 0, 1.0)
    assert circuits.spares("w", 1, 1.0), "one is under way already"
    circuits.succeeded("w")
    assert not circuits.spares("w", 9, 1.0)


def test_a_worker_that_fails_its_trial_is_spared_for_longer_up_to_a_bound() -> None:
    circuits = Circuits(CIRCUIT)
    now_s, spells = 0.0, []
    for _ in range(6):
        circuits.failed("w", now_s)
        begin_s = now_s
        while circuits.spares("w", 0, now_s):
            now_s += 0.5
        spells.append(now_s - begin_s)
    assert spells == [0.0, 1.0, 2.0, 3.0, 3.0, 3.0]


@given(st.lists(st.tuples(st.sampled_from(["failed", "succeeded"]), st.sampled_from("ab")), max_size=20))
def test_breakers_are_each_workers_own(events: list[tuple[str, str]]) -> None:
    circuits, alone = Circuits(CIRCUIT), Circuits(CIRCUIT)
    for event, worker in events:
        for book in (circuits, alone) if worker == "a" else (circuits,):
            book.failed(worker, 0.0) if event == "failed" else book.succeeded(worker)
    assert circuits.spares("a", 0, 0.5) == alone.spares("a", 0, 0.5)
