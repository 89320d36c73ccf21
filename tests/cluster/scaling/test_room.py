"""Joint mode keeps room for loads that come again within a few starts of a worker; all on a clock of its own."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segue.cluster.scaling.balance import Joint
from segue.cluster.scaling.joint import Budget, Work
from segue.cluster.scaling.policy import PolicyState, ScalingPolicy, decide
from segue.cluster.scaling.readings import Cluster, WorkerReading
from segue.cluster.scaling.room import Keep, Load, Room, enough_for, means_over

KEEP = Keep(start_s=60.0, starts=10.0, prefill_share=0.95, decode_share=0.95)
LOOK_S = 5.0
RATE = 1000.0

amounts = st.floats(0.01, 20.0)
series = st.lists(st.tuples(amounts, amounts), min_size=1, max_size=150)


def room_of(loads: list[tuple[float, float]], keep: Keep = KEEP) -> Room:
    room = Room()
    for look, (prefill, decode) in enumerate(loads):
        room = room.after(Load(LOOK_S * look, prefill, decode), keep.window_s)
    return room


def work_of(prefill: float, decode: float) -> Work:
    return Work(RATE * prefill, RATE * decode, RATE, RATE)


@given(series, st.floats(0.5, 1.0))
def test_room_lies_between_this_moments_load_and_the_most_of_the_window(
    loads: list[tuple[float, float]], share: float
) -> None:
    keep = replace(KEEP, prefill_share=share, decode_share=share)
    room = room_of(loads)
    sized = room.sized(work_of(*loads[-1]), keep)
    seen = [load.prefill for load in room.loads], [load.decode for load in room.loads]
    assert loads[-1][0] - 1e-6 <= sized.prompt_tokens_per_s / RATE <= max(seen[0]) + 1e-6
    assert loads[-1][1] - 1e-6 <= sized.output_tokens_per_s / RATE <= max(seen[1]) + 1e-6
    assert len(room.loads) <= KEEP.window_s / LOOK_S + 2


@given(series, st.data())
def test_more_load_at_any_time_never_asks_for_less(loads: list[tuple[float, float]], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(loads) - 1))
    more = [*loads]
    more[at] = loads[at][0] + data.draw(amounts), loads[at][1] + data.draw(amounts)
    one = room_of(loads).sized(work_of(*loads[-1]), KEEP)
    other = room_of(more).sized(work_of(*more[-1]), KEEP)
    assert other.prompt_tokens_per_s >= one.prompt_tokens_per_s - 1e-6
    assert other.output_tokens_per_s >= one.output_tokens_per_s - 1e-6


@given(series, amounts, amounts)
def test_what_is_not_needed_any_more_is_let_go_in_the_end(
    loads: list[tuple[float, float]], prefill: float, decode: float
) -> None:
    looks = math.ceil(KEEP.window_s / LOOK_S) + 1
    sized = room_of([*loads, *[(prefill, decode)] * looks]).sized(work_of(prefill, decode), KEEP)
    assert sized.prompt_tokens_per_s / RATE == pytest.approx(prefill, abs=1e-6)
    assert sized.output_tokens_per_s / RATE == pytest.approx(decode, abs=1e-6)


def test_a_peak_much_shorter_than_a_start_is_not_kept_room_for_and_headroom_is_for_this_moments_load_alone() -> None:
    spike = [(1.0, 1.0)] * 60 + [(9.0, 1.0)] * 2 + [(1.0, 1.0)] * 60
    assert room_of(spike).sized(work_of(1.0, 1.0), KEEP).prompt_tokens_per_s < 2.5 * RATE
    lull = room_of([(4.4, 2.2)] * 100 + [(1.0, 1.0)])
    sized = lull.sized(work_of(1.0, 1.0), replace(KEEP, headroom=0.1))
    assert sized.prompt_tokens_per_s == pytest.approx(4.0 * RATE)
    assert sized.output_tokens_per_s == pytest.approx(2.0 * RATE)


def test_without_a_window_this_moments_work_counts() -> None:
    room = room_of([(9.0, 9.0), (1.0, 1.0)])
    assert room.sized(work_of(1.0, 1.0), replace(KEEP, starts=0.0)) == work_of(1.0, 1.0)


def test_means_are_of_the_loads_of_one_start() -> None:
    loads = [Load(float(at), at, 2.0 * at) for at in range(5)]
    assert means_over(loads, 2.0) == [Load(2.0, 1.5, 3.0), Load(3.0, 2.5, 5.0), Load(4.0, 3.5, 7.0)]
    assert means_over(loads[:2], 2.0) == [Load(1.0, 0.5, 1.0)], "the start of what is known"


def test_a_share_of_looks_is_not_exceeded() -> None:
    assert enough_for(0.95, range(1, 101)) == 95
    assert enough_for(1.0, [3.0, 1.0, 2.0]) == 3.0
    assert enough_for(0.95, [7.0]) == 7.0


class Simple:
    """A cluster whose workers start in ``start_s`` and follow the policy at once otherwise."""

    def __init__(self, policy: ScalingPolicy, start_s: float) -> None:
        self.policy, self.start_s = policy, start_s
        self.state, self.now_s, self.count = PolicyState(), 0.0, 0
        self.workers: list[tuple[str, float]] = []
        self.resize("p", 2, ready=True)
        self.resize("d", 2, ready=True)

    def resize(self, pool: str, workers: int, *, ready: bool = False) -> None:
        mine = [one for one in self.workers if one[0].startswith(pool)]
        for one in mine[workers:]:
            self.workers.remove(one)
        for _ in range(workers - len(mine)):
            self.count += 1
            since_s = self.now_s - 1000.0 if ready else self.now_s + self.start_s
            self.workers.append((f"{pool}{self.count}", since_s))

    def look(self, prefill: float, decode: float) -> tuple[int, int]:
        self.now_s += LOOK_S
        workers = tuple(
            WorkerReading(
                *(name, "e", "prefill" if name.startswith("p") else "decode"),
                "ready" if ready_s <= self.now_s else "starting",
                self.now_s,
                ready_for_s=max(0.0, self.now_s - ready_s),
                tokens_per_s=RATE,
            )
            for name, ready_s in self.workers
        )
        cluster = Cluster(workers, 0.0, prefill * RATE, decode * RATE, 1.0, 1.0)
        decision, self.state = decide(self.policy, self.state, cluster, self.now_s)
        self.resize("p", decision.prefill.workers)
        self.resize("d", decision.decode.workers)
        return decision.prefill.workers, decision.decode.workers


def test_bursts_that_come_again_within_a_few_starts_find_the_workers_of_the_last_one() -> None:
    fleet = Simple(ScalingPolicy(joint=Joint(Budget(16))), start_s=60.0)
    splits = [fleet.look(6.0 if (look // 24) % 3 == 0 else 1.5, 1.0) for look in range(720)]
    assert fleet.state.starts.start_s(0.0) == pytest.approx(60.0)
    settled = splits[240:]
    assert len({prefill for prefill, _ in settled}) == 1, "two minutes of it in six, and nothing comes or goes"
    assert settled[0][0] * 0.8 >= 6.0


def test_where_workers_start_at_once_little_is_kept() -> None:
    fleet = Simple(ScalingPolicy(joint=Joint(Budget(16), patience_s=0.0, pause_s=0.0)), start_s=4.0)
    splits = [fleet.look(6.0 if (look // 24) % 3 == 0 else 1.5, 1.0) for look in range(720)]
    assert fleet.state.starts.start_s(60.0) == pytest.approx(4.0)
    assert min(prefill for prefill, _ in splits[240:]) <= 3


@settings(max_examples=8)
@given(st.floats(0.2, 6.0), st.floats(0.2, 4.0), st.floats(0.2, 6.0), st.floats(0.2, 4.0))
def test_a_steady_load_is_come_to_rest_at_within_the_window_and_before_it_nothing_is_given_back(
    prefill: float, decode: float, then_prefill: float, then_decode: float
) -> None:
    fleet = Simple(ScalingPolicy(joint=Joint(Budget(16))), start_s=20.0)
    first = [fleet.look(prefill, decode) for _ in range(60)]
    assert all(sum(split) >= 4 for split in first), "it began with 2+2 and hasn't seen a window yet"
    splits = [fleet.look(then_prefill, then_decode) for _ in range(300)]
    assert all(sum(split) <= 16 for split in splits)
    assert len(set(splits[-60:])) == 1, "it comes to rest"
    changes = sum(one != other for one, other in pairwise(splits))
    assert changes <= 24, "one way, and not to and fro"
