from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.cluster.scaling.balance import Balance, Joint, move
from segue.cluster.scaling.joint import Budget, Split, Work, best_split, served

rates = st.floats(1.0, 1e4)
works = st.builds(Work, rates, rates, rates, rates)
budgets = st.builds(Budget, st.integers(6, 16), st.integers(1, 3), st.integers(1, 3))


@given(budgets, works)
def test_the_best_split_fits_the_budget_and_no_other_serves_more(budget: Budget, work: Work) -> None:
    best = best_split(budget, work, 0.8)
    assert best.gpus(budget) <= budget.gpus
    for prefill in range(1, budget.gpus):
        for decode in range(1, budget.gpus):
            other = Split(prefill, decode, served(prefill, decode, work, 0.8))
            if other.gpus(budget) > budget.gpus:
                continue
            assert other.served <= best.served or best.served >= 1
            if other.served >= 1:
                assert best.served >= 1
                assert best.gpus(budget) <= other.gpus(budget)


def test_long_prompts_take_workers_from_decode() -> None:
    budget = Budget(8)
    chats = Work(prompt_tokens_per_s=8_000, output_tokens_per_s=8_000, prefill_rate=8_000, decode_rate=1_200)
    documents = Work(prompt_tokens_per_s=60_000, output_tokens_per_s=1_000, prefill_rate=8_000, decode_rate=1_200)
    assert best_split(budget, chats, 0.8).decode > best_split(budget, chats, 0.8).prefill
    assert best_split(budget, documents, 0.8) == Split(7, 1, served(7, 1, documents, 0.8))


@given(budgets, works, st.integers(1, 6), st.integers(1, 6))
def test_a_steady_mix_is_followed_to_an_end_and_the_budget_kept_on_the_way(
    budget: Budget, work: Work, prefill: int, decode: int
) -> None:
    joint = Joint(budget)
    split, balance, now_s = Split(prefill, decode, 0.0), Balance(), 0.0
    seen = []
    for _ in range(60):
        now_s += joint.pause_s
        moved = move(joint, balance, split, work, now_s)
        if split.gpus(budget) <= budget.gpus:
            assert moved.split.gpus(budget) <= budget.gpus
        if moved.split.prefill < split.prefill or moved.split.decode < split.decode:
            assert abs(moved.split.prefill - split.prefill) <= 1
            assert abs(moved.split.decode - split.decode) <= 1
        assert min(moved.split.prefill, moved.split.decode) >= 1
        split, balance = moved.split, moved.balance
        seen.append((split.prefill, split.decode))
    assert split.gpus(budget) <= budget.gpus
    assert len(set(seen[-10:])) == 1, f"it does not come to rest: {seen}"
    best = best_split(budget, work, joint.use)
    assert split.served >= min(1.0, best.served / (1 + joint.gain)) - 1e-9


def test_a_short_peak_takes_no_worker_from_the_other_pool() -> None:
    joint = Joint(Budget(4))
    calm = Work(1_000, 1_000, 1_000, 1_000)
    peak = Work(5_000, 1_000, 1_000, 1_000)
    split, balance = Split(2, 2, 0.0), Balance()
    for now_s, work in ((0.0, calm), (5.0, peak), (10.0, peak), (15.0, calm), (20.0, peak), (34.0, peak)):
        moved = move(joint, balance, split, work, now_s)
        split, balance = moved.split, moved.balance
        assert (split.prefill, split.decode) == (2, 2)
    lasting = move(joint, balance, split, peak, 35.0)
    assert (lasting.split.prefill, lasting.split.decode) == (3, 1)


def test_several_workers_come_at_once_where_the_budget_has_them() -> None:
    joint = Joint(Budget(12), grow_step=4)
    work = Work(prompt_tokens_per_s=6_000, output_tokens_per_s=1_000, prefill_rate=1_000, decode_rate=1_000)
    moved = move(joint, Balance(), Split(2, 2, 0.0), work, 0.0)
    assert (moved.split.prefill, moved.split.decode) == (6, 2)


def test_nothing_is_given_back_where_it_may_not_be_but_workers_are_traded() -> None:
    joint = Joint(Budget(6), patience_s=0.0, may_give_back=False)
    quiet = Work(prompt_tokens_per_s=100, output_tokens_per_s=100, prefill_rate=1_000, decode_rate=1_000)
    moved = move(joint, Balance(), Split(3, 3, 0.0), quiet, 0.0)
    assert (moved.split.prefill, moved.split.decode) == (3, 3)
    assert moved.reason.endswith("nothing is given back yet")
    long = Work(prompt_tokens_per_s=3_000, output_tokens_per_s=500, prefill_rate=1_000, decode_rate=1_000)
    traded = move(joint, Balance(), Split(3, 3, 0.0), long, 0.0)
    assert (traded.split.prefill, traded.split.decode) == (4, 2)


def test_a_growth_or_a_room_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="grow_step 0 must be 1 or more, room_starts -1 and start_s 60 0 or more"):
        Joint(Budget(4), grow_step=0, room_starts=-1)


def test_a_budget_too_small_for_both_pools_is_refused_with_the_figures() -> None:
    with pytest.raises(ValueError, match=r"3 GPUs must hold one prefill worker \(2\) and one decode worker \(2\)"):
        Budget(3, 2, 2)
