from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.base.block_hash import block_hashes

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
