"""The course of a turn, as a state machine."""

from __future__ import annotations

import random

import pytest

from segue.base.errors import Conflict
from segue.worker.turning import Phase, Step, Turning


def ready(timeout_s: float = 60.0) -> Turning:
    made = Turning("prefill", "decode", timeout_s)
    made.loaded()
    return made


def test_a_worker_turns_once_it_is_empty_and_back_again() -> None:
    turning = ready()
    turning.ask("decode", 0.0, now_s=0.0)
    assert (turning.phase, turning.role, turning.target) == (Phase.EMPTYING, "prefill", "decode")
    assert [turning.look(False, now_s) for now_s in (0.0, 1.0, 59.9)] == [Step.WAIT] * 3
    assert turning.look(True, 59.9) is Step.CHANGE
    assert turning.role == "prefill", "until the engine and the registration have changed"
    turning.changed()
    assert (turning.phase, turning.role, turning.target, turning.turns) == (Phase.STEADY, "decode", None, 1)
    turning.ask("prefill", 0.0, now_s=100.0)
    assert turning.look(True, 100.0) is Step.CHANGE
    turning.changed()
    assert (turning.role, turning.turns) == ("prefill", 2)


def test_one_that_is_not_empty_in_time_stays_what_it_is_and_may_turn_later() -> None:
    turning = ready(timeout_s=5.0)
    turning.ask("decode", 0.0, now_s=0.0)
    assert turning.look(False, 4.9) is Step.WAIT
    assert turning.look(False, 5.0) is Step.STAY
    assert (turning.phase, turning.role, turning.turns) == (Phase.STEADY, "prefill", 0)
    turning.ask("decode", 30.0, now_s=10.0)
    assert turning.look(False, 39.0) is Step.WAIT
    assert turning.look(True, 39.0) is Step.CHANGE


def test_empty_at_the_last_moment_counts() -> None:
    turning = ready(timeout_s=5.0)
    turning.ask("decode", 0.0, now_s=0.0)
    assert turning.look(True, 7.0) is Step.CHANGE


def test_a_turn_is_called_off_by_asking_for_the_present_role() -> None:
    turning = ready()
    turning.ask("decode", 0.0, now_s=0.0)
    turning.ask("prefill", 0.0, now_s=1.0)
    assert turning.target is None
    assert turning.look(True, 1.0) is Step.STAY


def test_asking_again_puts_nothing_off_unless_it_names_a_time() -> None:
    turning = ready(timeout_s=10.0)
    turning.ask("decode", 0.0, now_s=0.0)
    turning.ask("decode", 0.0, now_s=8.0)
    assert turning.left_s(8.0) == 2.0
    turning.ask("decode", 30.0, now_s=9.0)
    assert turning.left_s(9.0) == 30.0


def test_asking_for_the_role_it_has_is_nothing_to_do() -> None:
    turning = ready()
    turning.ask("prefill", 0.0, now_s=0.0)
    assert (turning.phase, turning.target) == (Phase.STEADY, None)


def test_a_worker_that_is_not_flex_stays_what_it_is() -> None:
    plain = Turning("decode", None, 60.0)
    plain.loaded()
    assert not plain.flex
    with pytest.raises(Conflict, match="started as a decode worker and stays one"):
        plain.ask("prefill", 0.0, now_s=0.0)
    plain.ask("decode", 0.0, now_s=0.0)


def test_nobody_turns_who_loads_changes_or_leaves() -> None:
    loading = Turning("prefill", "decode", 60.0)
    with pytest.raises(Conflict, match="is loading"):
        loading.ask("decode", 0.0, now_s=0.0)
    changing = ready()
    changing.ask("decode", 0.0, now_s=0.0)
    changing.look(True, 0.0)
    for role in ("prefill", "decode"):
        with pytest.raises(Conflict, match="is changing"):
            changing.ask(role, 0.0, now_s=0.0)
    leaving = ready()
    leaving.leave()
    with pytest.raises(Conflict, match="is leaving"):
        leaving.ask("decode", 0.0, now_s=0.0)


def test_told_to_leave_while_it_changes_it_leaves_in_the_new_role() -> None:
    turning = ready()
    turning.ask("decode", 0.0, now_s=0.0)
    turning.look(True, 0.0)
    turning.leave()
    turning.changed()
    assert (turning.phase, turning.role) == (Phase.LEAVING, "decode")
    turning.loaded()
    assert turning.phase is Phase.LEAVING


def test_whatever_comes_in_whatever_order_a_role_changes_only_when_nothing_is_left() -> None:
    chance = random.Random(5)
    for _ in range(300):
        turning, role, now_s = ready(timeout_s=2.0), "prefill", 0.0
        for _ in range(40):
            now_s += chance.random()
            empty = chance.random() < 0.3
            try:
                turning.ask(chance.choice(("prefill", "decode")), chance.choice((0.0, 0.0, 3.0)), now_s)
            except Conflict:
                assert turning.phase is Phase.LEAVING
            if chance.random() < 0.02:
                turning.leave()
            step = turning.look(empty, now_s)
            assert turning.role == role
            if step is Step.CHANGE:
                assert empty
                turning.changed()
                assert turning.role != role
                role = turning.role
            assert (turning.target is None) == (step is not Step.WAIT)
