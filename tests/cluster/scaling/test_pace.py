from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.cluster.scaling.pace import Bounds, Direction, History, Pace, step

directions = st.builds(Direction, st.sampled_from([0.0, 10.0, 60.0]), st.integers(1, 3), st.sampled_from([10.0, 60.0]))
paces = st.builds(Pace, directions, directions, st.builds(Bounds, st.integers(1, 3), st.integers(3, 12)))
looks = st.lists(st.tuples(st.sampled_from([1.0, 5.0, 20.0]), st.integers(0, 20)), max_size=40)


@given(paces, st.integers(1, 12), looks)
def test_a_pool_stays_within_its_bounds_and_never_moves_faster_than_allowed(
    pace: Pace, present: int, looks: list[tuple[float, int]]
) -> None:
    present, now_s, history = pace.bounds.clamp(present), 0.0, History()
    changes: list[tuple[float, int]] = []
    for passed_s, asked in looks:
        now_s += passed_s
        taken = step(pace, history, present, asked, now_s)
        changes.append((now_s, taken.workers - present))
        present, history = taken.workers, taken.history
        assert pace.bounds.least <= present <= pace.bounds.most
    for end_s, _ in changes:
        for direction, sign in ((pace.up, 1), (pace.down, -1)):
            within = [change for at_s, change in changes if end_s - direction.period_s < at_s <= end_s]
            assert sum(max(0, sign * change) for change in within) <= direction.step


@given(paces, st.integers(1, 12), looks)
def test_a_pool_never_shrinks_below_what_was_asked_for_within_the_window(
    pace: Pace, present: int, looks: list[tuple[float, int]]
) -> None:
    present, now_s, history = pace.bounds.clamp(present), 0.0, History()
    asked_for: list[tuple[float, int]] = []
    for passed_s, asked in looks:
        now_s += passed_s
        asked_for.append((now_s, pace.bounds.clamp(asked)))
        taken = step(pace, history, present, asked, now_s)
        if taken.workers < present:
            assert taken.workers >= max(count for at_s, count in asked_for if now_s - at_s <= pace.down.window_s)
        if taken.workers > present:
            assert taken.workers <= min(count for at_s, count in asked_for if now_s - at_s <= pace.up.window_s)
        present, history = taken.workers, taken.history


@given(paces, st.integers(1, 12), st.integers(0, 20))
def test_a_steady_demand_is_reached(pace: Pace, present: int, asked: int) -> None:
    present, history = pace.bounds.clamp(present), History()
    for look in range(1000):
        taken = step(pace, history, present, asked, look * 10.0)
        present, history = taken.workers, taken.history
    assert present == pace.bounds.clamp(asked)
    assert len(history.asked) <= 10, "it remembers no more than it looks back on"


def test_what_holds_a_pool_back_is_said() -> None:
    pace = Pace(up=Direction(0.0, 1, 60.0), bounds=Bounds(1, 4))
    taken = step(pace, History(), 2, 9, 0.0)
    assert (taken.workers, taken.held) == (3, "bounds make 4 of 9, the rate limit allows 3")
