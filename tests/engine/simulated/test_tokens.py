from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from segue.engine.simulated.tokens import TokenStream, expected_tokens

PROMPTS = st.lists(st.integers(0, 2047), min_size=1, max_size=50)


@given(PROMPTS, st.integers(0, 10), st.integers(1, 10))
def test_an_answer_goes_on_as_it_would_have_wherever_it_is_cut(prompt: list[int], before: int, after: int) -> None:
    whole = expected_tokens(prompt, before + after, 2048)
    first = whole[:before]
    assert first + expected_tokens(prompt + first, after, 2048) == whole


@given(PROMPTS)
def test_another_prompt_has_another_answer(prompt: list[int]) -> None:
    other = [*prompt[:-1], (prompt[-1] + 1) % 2048]
    assert expected_tokens(prompt, 8, 128_256) != expected_tokens(other, 8, 128_256)
    assert expected_tokens(prompt, 8, 128_256) != expected_tokens([0, *prompt], 8, 128_256)


@given(PROMPTS)
def test_a_token_that_is_given_counts_as_one_that_was_drawn(prompt: list[int]) -> None:
    drawn, given_ = TokenStream(prompt, 2048), TokenStream(prompt, 2048)
    given_.push(drawn.next())
    assert drawn.next() == given_.next()


def test_an_answer_ends_with_the_end_of_sequence_and_takes_another_token_where_that_is_banned() -> None:
    prompt = [1, 2, 3]
    whole = expected_tokens(prompt, 10, 2048)
    assert expected_tokens(prompt, 10, 2048, eos={whole[3]}) == whole[:4]
    assert TokenStream(prompt, 2048).next(banned={whole[0]}) != whole[0]
