from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from segue.cluster.scaling.balance import Joint
from segue.cluster.scaling.demand import Targets
from segue.cluster.scaling.joint import Budget
from segue.cluster.scaling.pace import Bounds, Pace
from segue.cluster.scaling.policy import PolicyState, ScalingPolicy, decide
from segue.cluster.scaling.readings import Cluster, Pool, WorkerReading


def worker(name: str, pool: Pool, rate: float, **other: float) -> WorkerReading:
    return WorkerReading(name, "e", pool, "ready", 0.0, ready_for_s=100.0, tokens_per_s=rate, **other)


P = [worker(f"p{index}", "prefill", 1000.0) for index in range(4)]
D = [worker(f"d{index}", "decode", 500.0, kv_use=0.5) for index in range(4)]


def test_each_pool_follows_its_own_signal_and_says_why() -> None:
    cluster = Cluster((P[0], *D[:2]), 4500.0, 0.0, 0.0, 1.0, 1.0)
    decision, _ = decide(ScalingPolicy(), PolicyState(), cluster, 0.0)
    assert (decision.prefill.present, decision.prefill.workers) == (1, 3)
    assert "backlog 4.50 s of one worker's work, target 1.5 s a worker" in decision.prefill.reason
    assert decision.decode.change == 0
    assert decision.turn_to is None


def test_a_shrinking_pool_waits_for_its_window_and_loses_one_at_a_time() -> None:
    cluster = Cluster((*P, *D[:1]), 0.0, 100.0, 0.0, 1.0, 1.0)
    policy, state, counts = ScalingPolicy(), PolicyState(), []
    busy = replace(cluster, queued_tokens=6000.0)
    for look in range(0, 620, 20):
        decision, state = decide(policy, state, busy if look == 0 else cluster, float(look))
        counts.append(decision.prefill.workers)
    assert counts[:16] == [4] * 16, "what was asked for within the window keeps it up"
    assert counts[16] == 3


def test_jointly_a_worker_changes_sides_when_the_mix_does() -> None:
    policy = ScalingPolicy(joint=Joint(Budget(4)))
    documents = Cluster((*P[:2], *D[:2]), 0.0, 3000.0, 100.0, 1.0, 1.0)
    state = PolicyState()
    for now_s in (0.0, 14.0):
        decision, state = decide(policy, state, documents, now_s)
        assert decision.turn_to is None
    decision, state = decide(policy, state, documents, 15.0)
    assert decision.turn_to == "prefill"
    assert (decision.prefill.workers, decision.decode.workers) == (3, 1)
    assert "2+2 serves 53% of 3000 prompt and 100 output tokens/s" in decision.decode.reason


def test_jointly_nothing_is_decided_from_nothing_measured() -> None:
    policy = ScalingPolicy(joint=Joint(Budget(4)))
    unmeasured = Cluster(tuple(replace(one, tokens_per_s=0.0) for one in (P[0], D[0])), 0.0, 0.0, 0.0, 1.0, 1.0)
    decision, _ = decide(policy, PolicyState(), unmeasured, 0.0)
    assert (decision.prefill.change, decision.decode.change) == (0, 0)
    assert "no prefill rate has been measured yet" in decision.prefill.reason


def test_a_lull_after_a_joint_decision_finds_in_its_window_what_the_pools_had() -> None:
    policy, state = ScalingPolicy(joint=Joint(Budget(4))), PolicyState()
    busy = Cluster((*P[:2], *D[:2]), 0.0, 1500.0, 700.0, 1.0, 1.0)
    quiet = replace(busy, workers=(*P[:2], *(replace(one, kv_use=0.0) for one in D[:2])), arriving_tokens_per_s=0.0)
    _, state = decide(policy, state, busy, 0.0)
    for now_s in range(5, 305, 5):
        decision, state = decide(policy, state, quiet, float(now_s))
        assert (decision.prefill.workers, decision.decode.workers) == (2, 2), now_s
    decision, _ = decide(policy, state, quiet, 305.0)
    assert (decision.prefill.workers, decision.decode.workers) == (1, 1)


def pools(prefill: int, decode: int, **readings: float) -> Cluster:
    workers = [worker(f"p{number}", "prefill", 1000.0) for number in range(prefill)]
    workers += [worker(f"d{number}", "decode", 500.0) for number in range(decode)]
    whole: dict[str, float] = {
        "queued_tokens": 0.0,
        "arriving_tokens_per_s": 1000.0,
        "arriving_output_tokens_per_s": 500.0,
        "ttft_attainment": 1.0,
        "itl_attainment": 1.0,
    }
    return Cluster(tuple(workers), **whole | readings)


def test_decode_gives_no_worker_away_for_prefill_that_its_bounds_forbid() -> None:
    policy = ScalingPolicy(prefill=Pace(bounds=Bounds(most=2)), joint=Joint(Budget(8)))
    documents = pools(2, 6, arriving_tokens_per_s=6000.0)
    state = PolicyState()
    for now_s in range(0, 120, 5):
        decision, state = decide(policy, state, documents, float(now_s))
        assert (decision.prefill.workers, decision.decode.workers) == (2, 6), decision.prefill.reason


bounds = st.builds(lambda least, more: Bounds(least, least + more), st.integers(1, 4), st.integers(0, 6))
shares = st.floats(0.0, 1.0)
speeds = st.floats(1.0, 20_000.0)


@given(bounds, bounds, st.lists(st.tuples(speeds, speeds), min_size=1, max_size=40), st.integers(1, 6))
def test_jointly_both_pools_stay_in_their_bounds_and_in_the_budget(
    prefill: Bounds, decode: Bounds, loads: list[tuple[float, float]], begin: int
) -> None:
    policy = ScalingPolicy(prefill=Pace(bounds=prefill), decode=Pace(bounds=decode), joint=Joint(Budget(12)))
    state, now = PolicyState(), (begin, begin)
    for look, (prompt, output) in enumerate(loads):
        cluster = pools(*now, arriving_tokens_per_s=prompt, arriving_output_tokens_per_s=output)
        decision, state = decide(policy, state, cluster, 10.0 * look)
        now = decision.prefill.workers, decision.decode.workers
        assert now == (prefill.clamp(now[0]), decode.clamp(now[1]))
        assert sum(now) <= 12


@given(st.integers(1, 8), st.integers(1, 8), shares, shares, speeds, speeds)
def test_jointly_a_pool_that_keeps_its_promise_too_rarely_does_not_shrink_but_prefill_for_the_sake_of_decode(
    prefill: int, decode: int, ttft: float, itl: float, prompt: float, output: float
) -> None:
    policy = ScalingPolicy(joint=Joint(Budget(16), patience_s=0.0, pause_s=0.0))
    readings = {"arriving_tokens_per_s": prompt, "arriving_output_tokens_per_s": output}
    cluster = pools(prefill, decode, ttft_attainment=ttft, itl_attainment=itl, **readings)
    decision, _ = decide(policy, PolicyState(), cluster, 0.0)
    if itl < Targets().itl_attainment:
        assert decision.decode.change >= 0
    if ttft < Targets().ttft_attainment:
        assert decision.prefill.change >= 0 or decision.decode.change > 0


def test_a_missed_promise_keeps_all_workers_of_a_fleet_that_would_do_with_few() -> None:
    policy, state = ScalingPolicy(joint=Joint(Budget(12))), PolicyState()
    for now_s in range(0, 600, 5):
        late = pools(6, 6, ttft_attainment=0.3, itl_attainment=0.3)
        decision, state = decide(policy, state, late, float(now_s))
        assert (decision.prefill.change, decision.decode.change) == (0, 0)
    assert "TTFT attainment 30%, below target, keeps prefill's workers; ITL" in decision.prefill.reason


def test_prefill_gives_workers_to_decode_where_prompts_wait_for_places_there() -> None:
    policy, state = ScalingPolicy(joint=Joint(Budget(8))), PolicyState()
    for now_s in range(0, 20, 5):
        late = pools(6, 2, arriving_output_tokens_per_s=2000.0, ttft_attainment=0.3)
        decision, state = decide(policy, state, late, float(now_s))
    assert decision.turn_to == "decode"
