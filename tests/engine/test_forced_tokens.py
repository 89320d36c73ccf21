from __future__ import annotations

import importlib

import pytest
import torch
from vllm import SamplingParams

from segue.engine.forced_tokens import EXTRA_ARG, PROCESSOR, ForcedTokens

VOCABULARY = 10


def processor_of(extra: dict[str, object] | None) -> object:
    processor = ForcedTokens(None, torch.device("cpu"), False)
    return processor.new_req_logits_processor(SamplingParams(extra_args=extra))


@pytest.mark.parametrize("extra", [None, {}, {EXTRA_ARG: []}, {"another": [1]}])
def test_a_request_that_forces_nothing_has_no_processor(extra: dict[str, object] | None) -> None:
    assert processor_of(extra) is None


@pytest.mark.parametrize("seed", range(5))
def test_each_forced_position_has_one_choice_and_the_rest_are_free(seed: int) -> None:
    force = processor_of({EXTRA_ARG: [7, 2]})
    assert callable(force)
    generator = torch.Generator().manual_seed(seed)
    for position, token_id in enumerate([7, 2]):
        logits = force([7, 2][:position], torch.randn(VOCABULARY, generator=generator))
        assert torch.softmax(logits, 0).tolist() == [float(each == token_id) for each in range(VOCABULARY)]
    free = torch.randn(VOCABULARY, generator=generator)
    assert force([7, 2], free) is free
    assert force([7, 2, 9], free) is free


def test_it_changes_the_best_token_so_greedy_requests_must_not_skip_it() -> None:
    assert ForcedTokens(None, torch.device("cpu"), False).is_argmax_invariant() is False


def test_the_name_that_vllm_loads_it_by_is_its_own() -> None:
    module, _, name = PROCESSOR.partition(":")
    assert getattr(importlib.import_module(module), name) is ForcedTokens
