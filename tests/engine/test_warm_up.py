from __future__ import annotations

from segue.engine.warm_up import warm_up_submits


def test_warm_up_runs_a_greedy_and_a_sampled_request_that_end_by_themselves() -> None:
    submits = warm_up_submits()
    assert len({submit.request_id for submit in submits}) == len(submits)
    assert {submit.sampling.temperature == 0 and submit.sampling.HasField("temperature") for submit in submits} == {
        True,
        False,
    }
    for submit in submits:
        assert submit.input_token_ids
        assert submit.sampling.ignore_eos
        assert 1 < submit.sampling.max_tokens < 10


def test_warm_up_transfers_nothing() -> None:
    assert not any(submit.offer_kv or submit.HasField("ticket") for submit in warm_up_submits())


def test_no_warm_up_prompt_is_served_from_the_cache_of_another() -> None:
    """A cached prompt would leave its computation cold."""
    firsts = [submit.input_token_ids[0] for submit in warm_up_submits()]
    assert len(set(firsts)) == len(firsts)
