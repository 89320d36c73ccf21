from __future__ import annotations

from dataclasses import replace

from segue.cluster.scaling.balance import Joint
from segue.cluster.scaling.joint import Budget
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
