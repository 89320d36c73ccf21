from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.cluster.restarts import Death, EndPool, History, Restart, RestartPolicy, decide

RESTART = RestartPolicy(on_death="restart", first_pause_s=1.0, longest_pause_s=8.0, stable_after_s=60.0)
QUICK = Death(returncode=1, lived_s=2.0)


def test_exit_policy_ends_the_pool_at_the_first_death() -> None:
    assert isinstance(decide(RestartPolicy(on_death="exit"), History(), QUICK), EndPool)


def test_pauses_double_up_to_the_longest() -> None:
    history, pauses_s = History(), []
    for _ in range(6):
        decision = decide(RESTART, history, QUICK)
        assert isinstance(decision, Restart)
        pauses_s.append(decision.pause_s)
        history = decision.history
    assert pauses_s == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]


def test_a_stable_life_clears_the_count() -> None:
    decision = decide(RESTART, History(quick_deaths=5), Death(returncode=-9, lived_s=61.0))
    assert decision == Restart(1.0, History(quick_deaths=1, joined_later=True))


MISCONFIGURED = Death(returncode=2, lived_s=0.5)


def test_a_configuration_error_of_a_pool_that_starts_is_not_tried_again() -> None:
    assert isinstance(decide(RESTART, History(), MISCONFIGURED), EndPool)


def test_one_that_can_not_join_a_pool_that_runs_does_not_end_it() -> None:
    """As in an upgrade that the cluster refuses: neither its new worker nor one that died in between."""
    died = decide(RESTART, History(), Death(returncode=-9, lived_s=3600.0))
    assert isinstance(died, Restart)
    for history in (died.history, History(joined_later=True)):
        again = decide(RESTART, history, MISCONFIGURED)
        assert isinstance(again, Restart)
        assert again.pause_s == RESTART.longest_pause_s
        assert isinstance(decide(RESTART, again.history, MISCONFIGURED), Restart)


@given(st.integers(0, 10_000), st.integers(-64, 255).filter(lambda code: code != 2), st.floats(0, 1e6))
def test_a_restart_always_waits_within_the_bounds(quick_deaths: int, returncode: int, lived_s: float) -> None:
    decision = decide(RESTART, History(quick_deaths), Death(returncode, lived_s))
    assert isinstance(decision, Restart)
    assert RESTART.first_pause_s <= decision.pause_s <= RESTART.longest_pause_s


@pytest.mark.parametrize(
    ("returncode", "words"),
    [(3, "exited with status 3"), (-9, "was killed by SIGKILL (9)"), (-40, "an unnamed signal (40)")],
)
def test_a_death_says_how_it_came(returncode: int, words: str) -> None:
    assert words in str(Death(returncode, 1.0))


def test_a_policy_without_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="longest_pause_s"):
        RestartPolicy(first_pause_s=5.0, longest_pause_s=1.0)
