"""Engines on one node share no core while another one is idle. Real files and real processes, no Ray."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from segue.cluster.on_ray.cores import HeldCores, least_held


@given(st.integers(1, 16), st.lists(st.floats(0.1, 20), max_size=12))
def test_no_core_is_shared_while_another_is_free_and_none_by_two_more_than_another(
    cores: int, wanted: list[float]
) -> None:
    held: list[tuple[int, ...]] = []
    for cpus in wanted:
        held.append(least_held(range(cores), held, cpus))
        assert len(held[-1]) == len(set(held[-1])) == min(cores, max(1, int(cpus)))
        holders = Counter(core for one in held for core in one)
        counts = [holders[core] for core in range(cores)]
        assert max(counts) - min(counts) <= 1


def test_workers_of_both_pools_and_flex_ones_come_to_different_cores(tmp_path: Path) -> None:
    prefill, decode, flex, big = (HeldCores(range(8), cpus, tmp_path) for cpus in (1, 1, 0.5, 4))
    assert (prefill.cores, decode.cores, flex.cores, big.cores) == ((0,), (1,), (2,), (3, 4, 5, 6))
    decode.release()
    assert HeldCores(range(8), 1, tmp_path).cores == (1,)


def test_the_cores_of_a_process_that_was_killed_are_free_again(tmp_path: Path) -> None:
    held = (
        "import sys, pathlib, segue.cluster.on_ray.cores as c; h = c.HeldCores(range(4), 3, pathlib.Path(sys.argv[1]));"
        "print(*h.cores, flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", held, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == "0 1 2\n"
        first = HeldCores(range(4), 1, tmp_path)
        assert first.cores == (3,)
    finally:
        other.kill()
        other.communicate()
    second = HeldCores(range(4), 2, tmp_path)
    assert second.cores == (0, 1)
    first.release()
    second.release()
    assert list(tmp_path.glob("held-*")) == [], "the killed one's is removed, too"
