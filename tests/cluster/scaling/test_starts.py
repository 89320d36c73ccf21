from __future__ import annotations

from segue.cluster.scaling.readings import WorkerPhase, WorkerReading
from segue.cluster.scaling.starts import Starts, watched


def reading(name: str, phase: WorkerPhase, ready_for_s: float = 0.0) -> WorkerReading:
    return WorkerReading(name, "e", "prefill", phase, 0.0, ready_for_s=ready_for_s)


def test_a_start_lasts_from_the_look_that_asked_for_a_worker_until_it_is_ready() -> None:
    starts = watched(Starts(), [reading("old", "ready")], 0.0)
    assert starts.start_s(60.0) == 60.0, "nothing has been seen yet"
    starts = watched(starts, [reading("old", "ready"), reading("new", "starting")], 5.0)
    starts = watched(starts, [reading("old", "ready"), reading("new", "starting")], 50.0)
    starts = watched(starts, [reading("old", "ready"), reading("new", "ready", ready_for_s=2.0)], 55.0)
    assert starts.lasted_s == (53.0,)
    assert starts.waiting == ()


def test_a_worker_that_is_ready_within_one_look_counts_and_one_that_was_ready_before_does_not() -> None:
    starts = watched(Starts(), [], 0.0)
    quick, older = reading("quick", "ready", ready_for_s=1.0), reading("older", "ready", ready_for_s=100.0)
    starts = watched(starts, [quick, older], 5.0)
    assert starts.lasted_s == (4.0,)
    assert watched(starts, [quick, older], 10.0).lasted_s == (4.0,)


def test_a_worker_that_was_there_at_first_or_turns_tells_nothing_of_starts() -> None:
    starts = watched(Starts(), [reading("begun", "starting"), reading("turns", "ready")], 0.0)
    starts = watched(starts, [reading("begun", "ready"), reading("turns", "starting")], 10.0)
    starts = watched(starts, [reading("begun", "ready"), reading("turns", "ready")], 12.0)
    assert starts.lasted_s == ()


def test_a_worker_that_never_got_ready_is_forgotten() -> None:
    starts = watched(Starts(), [], 0.0)
    starts = watched(starts, [reading("lost", "starting")], 5.0)
    starts = watched(starts, [], 10.0)
    assert (starts.waiting, starts.known, starts.lasted_s) == ((), frozenset(), ())


def test_of_the_last_five_starts_the_middle_one_counts() -> None:
    starts = watched(Starts(), [], 0.0)
    for number, took_s in enumerate((5.0, 900.0, 50.0, 60.0, 55.0, 58.0)):
        begun_s = 1000.0 * (number + 1)
        starts = watched(starts, [], begun_s)
        starts = watched(starts, [reading(f"w{number}", "starting")], begun_s + 1.0)
        starts = watched(starts, [reading(f"w{number}", "ready")], begun_s + took_s)
    assert starts.lasted_s == (900.0, 50.0, 60.0, 55.0, 58.0)
    assert starts.start_s(1.0) == 58.0
