from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.base.errors import SettingsError
from segue.cluster.pools import Phase, PoolsView, PoolView, PoolWorker, turner, victims
from segue.cluster.pools_service import message_of, view_of
from segue.cluster.run_files import RunFile, announced, running, the_running_one

phases: st.SearchStrategy[Phase] = st.sampled_from(["running", "leaving", "restarting"])
pools = st.lists(st.tuples(phases, st.integers(0, 5)), max_size=8)


@given(pools, st.integers(0, 8))
def test_those_with_the_least_work_leave_and_nobody_twice(members: list[tuple[Phase, int]], count: int) -> None:
    workers = [PoolWorker(f"w{index}", phase, "core 0") for index, (phase, _) in enumerate(members)]
    work = {f"w{index}": float(load) for index, (_, load) in enumerate(members)}
    chosen = victims(workers, count, work)
    staying = {worker.worker_id for worker in workers if worker.phase == "running"} - set(chosen)
    assert len(chosen) == len(set(chosen)) == min(count, sum(phase != "leaving" for phase, _ in members))
    ran = [name for name in chosen if workers[int(name[1:])].phase == "running"]
    assert max((work[name] for name in ran), default=0) <= min((work[name] for name in staying), default=5)
    if ran:
        assert not any(worker.phase == "restarting" and worker.worker_id not in chosen for worker in workers)


def test_the_youngest_of_equals_leaves() -> None:
    workers = [PoolWorker(f"decode-{number}", "running", "core 0") for number in range(3)]
    assert victims(workers, 1, {}) == ["decode-2"]


def test_those_that_could_turn_stay_as_long_as_there_are_others() -> None:
    workers = [PoolWorker(f"w{number}", "running", "core 0", flex=number != 1) for number in range(3)]
    assert victims(workers, 2, {"w1": 9.0, "w2": 1.0}) == ["w1", "w0"]


def test_the_least_busy_of_those_that_may_turn_does_and_the_youngest_of_equals() -> None:
    workers = [PoolWorker(f"w{number}", "running", "core 0", flex=number != 0) for number in range(4)]
    assert turner(workers, {}) == "w3"
    assert turner(workers, {"w1": 1.0, "w2": 1.0, "w3": 2.0}) == "w2"
    assert turner([replace(one, phase="turning") for one in workers], {}) is None
    assert turner(workers[:1], {}) is None


def test_a_view_survives_the_wire() -> None:
    turning = PoolWorker(
        "prefill-0", "turning", "gpu 1", "pid 7", 3, True, "10.0.0.1:9101", "e1", {"CPU": 1.0, "GPU": 0.5}, 0.25
    )
    prefill = PoolView("prefill", 2, (turning,))
    decode = PoolView("decode", 1, (PoolWorker("decode-0", "leaving", "core 0"),))
    view = PoolsView("local", (prefill, decode))
    assert view_of(message_of(view)) == view


def run_file(pid: int) -> RunFile:
    return RunFile(pid=pid, pools="127.0.0.1:1", http_url="http://127.0.0.1:2", grpc="127.0.0.1:3", run_dir="/")


def test_a_cluster_is_found_while_it_runs_and_a_killed_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no cluster of yours runs"):
        the_running_one(tmp_path)
    (tmp_path / "dead.json").write_text(run_file(2**22 + 1).model_dump_json())
    with announced(run_file(os.getpid()), tmp_path):
        assert the_running_one(tmp_path) == run_file(os.getpid())
        with announced(run_file(os.getppid()), tmp_path), pytest.raises(SettingsError, match="2 clusters of yours"):
            the_running_one(tmp_path)
    assert running(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
