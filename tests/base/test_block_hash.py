from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from segue.base.block_hash import block_hashes, block_names

tokens = st.lists(st.integers(0, 2**32 - 1), max_size=40)


@given(tokens, tokens, st.integers(1, 8))
def test_names_are_equal_exactly_as_far_as_the_prefix_is(one: list[int], other: list[int], block_tokens: int) -> None:
    pairs = zip(block_hashes(one, block_tokens), block_hashes(other, block_tokens), strict=False)
    for index, (a, b) in enumerate(pairs, start=1):
        assert (a == b) == (one[: index * block_tokens] == other[: index * block_tokens])


@given(tokens, st.integers(1, 8), st.integers(0, 5))
def test_a_chain_may_be_named_in_parts(prompt: list[int], block_tokens: int, first: int) -> None:
    whole = block_hashes(prompt, block_tokens)
    head = block_hashes(prompt[: first * block_tokens], block_tokens)
    rest = block_hashes(prompt[first * block_tokens :], block_tokens, *head[-1:])
    assert head + rest == whole


@given(tokens, st.integers(1, 8), st.integers(0, 2**64 - 1))
def test_few_tokens_and_many_are_named_alike(prompt: list[int], block_tokens: int, parent: int) -> None:
    names = block_hashes(prompt, block_tokens, parent)
    assert block_names(np.array(prompt, np.uint32), block_tokens, parent).tolist() == names


def test_a_long_prompt_is_named_as_its_parts_are() -> None:
    prompt = np.random.default_rng(1).integers(0, 2**32, 20_000).astype(np.uint32)
    names: list[int] = []
    for start in range(0, len(prompt), 100):
        names += block_hashes(prompt[start : start + 100], 2, *names[-1:])
    assert block_names(prompt, 2).tolist() == names
    assert len(set(names)) == len(names)


def test_a_shorter_block_is_none_that_ends_in_zeros() -> None:
    assert block_hashes([7, 0], 2) != block_hashes([7, 0, 0], 3)
