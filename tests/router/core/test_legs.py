"""What each leg is asked for."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from segue.proto.inference_pb2 import Path
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.lifecycle.legs import choice_sampling, choose_path, decode_sampling, prefill_sampling

sampling_params = st.builds(
    SamplingParams,
    temperature=st.none() | st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    max_tokens=st.integers(1, 100),
    min_tokens=st.none() | st.integers(0, 100),
    presence_penalty=st.none() | st.sampled_from([0.0, 0.5]),
    frequency_penalty=st.none() | st.sampled_from([0.0, -0.5]),
    repetition_penalty=st.none() | st.sampled_from([1.0, 1.5]),
    stop=st.lists(st.sampled_from(["a", "b"]), max_size=2),
    stop_token_ids=st.lists(st.integers(0, 9), max_size=2),
    logprobs=st.none() | st.integers(0, 3),
    ignore_eos=st.none() | st.booleans(),
    logit_bias=st.dictionaries(st.integers(0, 9), st.sampled_from([-1.0, 1.0]), max_size=2),
)


@pytest.mark.parametrize(
    ("sampling", "path", "reason"),
    [
        (SamplingParams(), Path.PATH_SEEDED, ""),
        (SamplingParams(temperature=0, top_k=1, repetition_penalty=1.3), Path.PATH_SEEDED, ""),
        (SamplingParams(seed=1, temperature=0), Path.PATH_SEEDED, ""),
        (SamplingParams(seed=0, temperature=0.1), Path.PATH_EXACT, "seed"),
        (SamplingParams(seed=1), Path.PATH_EXACT, "seed"),
        (SamplingParams(temperature=0, structured_outputs={"regex": "a*"}), Path.PATH_EXACT, "structured_outputs"),
        (SamplingParams(presence_penalty=0.1), Path.PATH_EXACT, "presence_penalty"),
        (SamplingParams(presence_penalty=0, frequency_penalty=0), Path.PATH_SEEDED, ""),
        (
            SamplingParams(seed=1, presence_penalty=1, frequency_penalty=-1),
            Path.PATH_EXACT,
            "seed+presence_penalty+frequency_penalty",
        ),
    ],
)
def test_the_exact_path_is_taken_where_token_1_shapes_the_samplers_state(
    sampling: SamplingParams, path: Path, reason: str
) -> None:
    assert choose_path(sampling) == (path, reason)


@given(sampling_params)
def test_prefill_is_asked_for_one_token_by_the_same_rules(sampling: SamplingParams) -> None:
    leg = prefill_sampling(sampling)
    assert leg.max_tokens == 1
    assert leg.min_tokens == min(sampling.min_tokens, 1)
    assert _others(leg) == _others(sampling)


@given(sampling_params, st.integers(0, 9))
def test_decode_is_asked_for_what_is_left(sampling: SamplingParams, passed: int) -> None:
    sampling.max_tokens += passed
    leg = decode_sampling(sampling, passed)
    assert leg.max_tokens == sampling.max_tokens - passed
    assert leg.min_tokens == max(0, sampling.min_tokens - passed)
    assert _others(leg) == _others(sampling)


@given(sampling_params)
def test_stop_strings_are_the_routers_own_business(sampling: SamplingParams) -> None:
    before = SamplingParams.FromString(sampling.SerializeToString())
    assert not prefill_sampling(sampling).stop
    assert not decode_sampling(sampling, 0).stop
    assert sampling == before


@given(sampling_params, st.integers(0, 7))
@example(SamplingParams(seed=2**63 - 1), 1)
def test_each_answer_has_a_seed_of_its_own(sampling: SamplingParams, index: int) -> None:
    leg = choice_sampling(sampling, index)
    assert leg.HasField("seed") == sampling.HasField("seed")
    if sampling.HasField("seed"):
        assert (leg.seed - sampling.seed) % 2**64 == index  # Past the largest seed it goes on from the smallest.
        leg.seed = sampling.seed
    assert leg == sampling


def _others(sampling: SamplingParams) -> SamplingParams:
    rest = SamplingParams.FromString(sampling.SerializeToString())
    for name in ("max_tokens", "min_tokens", "stop"):
        rest.ClearField(name)
    return rest
