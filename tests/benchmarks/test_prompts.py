"""Prompts that are distinct, long enough and repeatable."""

import pytest
from comparison.prompts import make_prompts


def test_prompts_are_distinct_have_the_asked_length_and_repeat_with_the_seed() -> None:
    prompts = make_prompts(64, 120, "seed")
    assert len(set(prompts)) == 64
    assert {len(prompt.split()) for prompt in prompts} == {120}
    assert make_prompts(64, 120, "seed") == prompts


def test_another_seed_gives_other_prompts() -> None:
    assert not set(make_prompts(8, 120, "one")) & set(make_prompts(8, 120, "two"))


def test_more_prompts_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="use more words"):
        make_prompts(1_000, 1, "seed")
