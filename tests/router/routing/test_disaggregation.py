"""Prefill on decode or on prefill, for one request."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from segue.router.planning.disaggregation import Disaggregation, Ways, decide

AUTO = Disaggregation()
# A short prompt, nobody running on decode: alike to the first token, and no hand-off to wait for.
SHORT = Ways(
    remote_s=0.03, handoff_s=0.02, local_s=0.03, stall_s=0.02, running=0, tokens=50, local_known=True, remote_known=True
)
LONG = replace(SHORT, remote_s=0.5, local_s=0.5, stall_s=0.5, tokens=5000)


def local(ways: Ways, policy: Disaggregation = AUTO, number: int = 1, *, leans: bool = False) -> bool:
    return decide(policy, ways, number, leans).local


def test_a_short_prompt_is_not_worth_a_hand_off() -> None:
    assert local(SHORT)
    assert "50 tokens take decode 30.0 ms" in decide(AUTO, SHORT, 1, leans_local=False).reason


def test_nobody_waits_for_a_long_prompt_of_somebody_else() -> None:
    assert not local(replace(LONG, running=1))
    assert "hold up 1 streams for 500.0 ms" in decide(AUTO, replace(LONG, running=1), 1, leans_local=False).reason


def test_what_many_streams_lose_weighs_more_than_what_one_request_gains() -> None:
    assert local(replace(SHORT, stall_s=0.005, running=1))
    assert not local(replace(SHORT, stall_s=0.005, running=10))


def test_a_queue_before_prefill_speaks_for_decode() -> None:
    assert local(replace(LONG, remote_s=3.0))
    assert not local(replace(LONG, local_s=0.6))


def test_no_first_token_comes_later_for_the_sake_of_those_behind_it() -> None:
    assert local(replace(SHORT, handoff_s=1.0))
    assert not local(replace(SHORT, handoff_s=1.0, local_s=0.032))


def test_with_no_rate_the_default_stays_and_a_few_are_tried() -> None:
    unknown = replace(SHORT, local_known=False)
    tries = [decide(AUTO, unknown, number, leans_local=False) for number in range(17)]
    assert [decision.tried for decision in tries] == [False] * 16 + [True]
    assert all(decision.tried == decision.local for decision in tries)
    assert decide(AUTO, replace(unknown, remote_lost_s=0.01), 2, leans_local=False).tried  # There is less to lose.
    assert not any(local(replace(unknown, running=3, stall_s=0.2), number=number) for number in range(160))


def test_what_streams_lose_anyway_is_no_harm_that_decode_does() -> None:
    some = replace(LONG, stall_s=0.15, local_s=0.3, running=2)
    assert not local(some)
    assert not local(replace(some, remote_lost_s=0.1))  # Most of it is spared them by a hand-off.
    assert local(replace(some, remote_lost_s=0.2))
    assert "at 200.0 ms lost by all" in decide(AUTO, replace(some, remote_lost_s=0.2), 1, leans_local=False).reason


def test_what_running_streams_win_may_cost_the_first_token_as_much() -> None:
    some = replace(SHORT, running=1, stall_s=0.002, local_s=0.04, remote_lost_s=0.0)
    assert not local(some)
    assert not local(replace(some, remote_lost_s=0.005))
    assert local(replace(some, remote_lost_s=0.02))


def test_a_worker_that_has_nothing_to_do_takes_from_the_others_what_a_prefill_worker_would() -> None:
    assert local(replace(LONG, remote_s=0.6, remote_lost_s=0.5, local_lost_s=0.5))
    assert not local(replace(LONG, remote_s=0.6, local_lost_s=0.5))


def test_what_speaks_against_decode_is_measured_again_now_and_then() -> None:
    some = replace(SHORT, local_s=0.05)
    assert not local(some, number=99)
    doubtful = replace(some, doubt_s=0.02)
    assert not local(doubtful, number=15)
    assert decide(AUTO, doubtful, 16, leans_local=False).tried


def test_the_mode_is_kept_to() -> None:
    assert not local(SHORT, Disaggregation("always"))
    assert local(LONG, Disaggregation("never"))
    assert decide(Disaggregation("always"), replace(LONG, remote_s=None), 1, leans_local=False).local


seconds = st.floats(0, 2)
ways = st.builds(
    Ways,
    st.none() | seconds,
    seconds,
    seconds,
    seconds,
    st.integers(0, 50),
    st.integers(1, 9999),
    st.booleans(),
    st.booleans(),
    seconds,
    seconds,
    seconds,
)


@given(ways, st.integers(0, 99))
def test_a_decision_once_made_takes_a_clear_advantage_to_leave(some: Ways, number: int) -> None:
    if decide(AUTO, some, number, leans_local=False).local:
        assert decide(AUTO, some, number, leans_local=True).local


@given(ways, st.integers(0, 99), st.booleans(), st.integers(0, 9), seconds)
def test_more_streams_or_a_slower_decode_never_turn_to_local(
    some: Ways, number: int, leans: bool, more: int, slower_s: float
) -> None:
    if not decide(AUTO, some, number, leans).local:
        worse = replace(
            some, running=some.running + more, stall_s=some.stall_s + slower_s, local_s=some.local_s + slower_s
        )
        assert not decide(AUTO, worse, number, leans).local
