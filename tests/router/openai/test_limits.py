"""Bounds that JSON can't reach but gRPC can, and the exact edges of a model's length."""

from __future__ import annotations

import math
import re

import pytest

from segue.base.errors import InvalidRequest, PayloadTooLarge
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.limits import (
    Limits,
    ModelFacts,
    check_body_size,
    check_prompt,
    check_prompt_size,
    complete_sampling,
    shown_s,
)
from segue.router.text.prompt import ChatPrompt, TextPrompt, TokenPrompt, prompt_bytes

MODEL = ModelFacts(max_model_len_tokens=100, vocab_size=50)
LIMITS = Limits()


def complete(sampling: SamplingParams, prompt_tokens: int = 10) -> SamplingParams:
    return complete_sampling(sampling, prompt_tokens=prompt_tokens, model=MODEL, limits=LIMITS)


@pytest.mark.parametrize(
    "name", ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_no_number_may_be_nan_or_infinite(name: str, value: float) -> None:
    sampling = SamplingParams()
    setattr(sampling, name, value)
    with pytest.raises(InvalidRequest, match=f"{name} is -?(nan|inf); it must be a number") as caught:
        complete(sampling)
    assert caught.value.param == name


def test_a_nan_bias_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="logit_bias of token 3 is nan"):
        complete(SamplingParams(logit_bias={3: math.nan}))


def test_max_tokens_is_what_the_model_leaves_unless_asked_for() -> None:
    assert complete(SamplingParams()).max_tokens == 90
    assert complete(SamplingParams(), prompt_tokens=99).max_tokens == 1
    assert complete(SamplingParams(max_tokens=90)).max_tokens == 90
    message = "the prompt has 10 tokens, max_tokens is 91: 101 in all. The model takes 100; ask for at most 90"
    with pytest.raises(InvalidRequest, match=re.escape(message)) as caught:
        complete(SamplingParams(max_tokens=91))
    assert caught.value.code == "context_length_exceeded"


def test_the_request_is_not_changed() -> None:
    sampling = SamplingParams(temperature=1)
    complete(sampling)
    assert sampling == SamplingParams(temperature=1)


def test_the_longest_prompt_leaves_room_for_one_token() -> None:
    check_prompt([1] * 99, MODEL, LIMITS)
    with pytest.raises(InvalidRequest, match="the prompt has 100 tokens, but the model takes 100"):
        check_prompt([1] * 100, MODEL, LIMITS)
    with pytest.raises(InvalidRequest, match="empty"):
        check_prompt([], MODEL, LIMITS)
    with pytest.raises(InvalidRequest, match="token id 50"):
        check_prompt([49, 50], MODEL, LIMITS)


def test_a_body_is_bounded() -> None:
    check_body_size(LIMITS.max_body_bytes, LIMITS)
    with pytest.raises(PayloadTooLarge, match=str(LIMITS.max_body_bytes + 1)):
        check_body_size(LIMITS.max_body_bytes + 1, LIMITS)


def test_a_prompts_text_and_tokens_are_bounded() -> None:
    limits = Limits(max_prompt_bytes=6, max_prompt_tokens=3)
    check_prompt_size(prompt_bytes(TextPrompt("\u00e9" * 3)), limits)
    with pytest.raises(InvalidRequest, match="prompt has 8 bytes of text; at most 6 are taken"):
        check_prompt_size(prompt_bytes(TextPrompt("\u00e9" * 4)), limits)
    with pytest.raises(InvalidRequest, match="messages has 7 bytes"):
        check_prompt_size(prompt_bytes(ChatPrompt([{"role": "user", "content": "abc"}])), limits, "messages")
    assert prompt_bytes(TokenPrompt((1, 2))) == 0
    check_prompt([1] * 3, MODEL, limits)
    with pytest.raises(InvalidRequest, match="prompt has 4 tokens; at most 3 are taken"):
        check_prompt([1] * 4, MODEL, limits)


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_limit_must_be_a_number_that_bounds_something(value: float) -> None:
    with pytest.raises(ValueError, match="max_timeout_s is"):
        Limits(max_timeout_s=value)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.0123456, "0.0123"), (0.29999, "0.3"), (1.99873, "2"), (9.876, "9.88"), (599.99, "600")]
)
def test_seconds_are_shown_as_people_read_them(seconds: float, shown: str) -> None:
    assert shown_s(seconds) == shown
