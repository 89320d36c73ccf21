"""The timing model against its own logic, and against what others have published."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.engine.simulated.gpus import GPUS
from segue.engine.simulated.models import SHAPES
from segue.engine.simulated.timing import Efficiency, StepWork, Timing

PEAK = Efficiency(1.0, 1.0, 1.0, overhead_s=0.0, overhead_per_request_s=0.0)
LLAMA_8B = Timing(GPUS["H100"], SHAPES["llama-3.1-8b"])


def decode(requests: int = 1, context: int = 1) -> StepWork:
    work = StepWork()
    for _ in range(requests):
        work.add(context, 1, sampled=True)
    return work


def prefill(tokens: int, before: int = 0) -> StepWork:
    work = StepWork()
    work.add(before, tokens, sampled=True)
    return work


def chunked_prefill_s(timing: Timing, tokens: int, chunk: int = 8192) -> float:
    return sum(timing.step_s(prefill(min(chunk, tokens - begin), begin)) for begin in range(0, tokens, chunk))


@given(st.integers(1, 500), st.integers(0, 100_000), st.integers(0, 10_000), st.sampled_from(sorted(GPUS)))
def test_more_work_never_takes_less_time(requests: int, context: int, more: int, gpu: str) -> None:
    timing = replace(LLAMA_8B, gpu=GPUS[gpu])
    assert timing.step_s(decode(requests, context)) <= timing.step_s(decode(requests + 1, context))
    assert timing.step_s(decode(requests, context)) <= timing.step_s(decode(requests, context + more))
    assert timing.step_s(prefill(1 + context)) <= timing.step_s(prefill(1 + context + more))
    mixed = prefill(1 + context)
    mixed.add(more, 1, sampled=True)
    assert timing.step_s(prefill(1 + context)) <= timing.step_s(mixed)


@given(st.integers(1, 100_000))
def test_better_hardware_is_never_slower(tokens: int) -> None:
    for work in (prefill(tokens), decode(64, tokens)):
        h100, h200, a100 = (replace(LLAMA_8B, gpu=GPUS[name]).step_s(work) for name in ("H100", "H200", "A100"))
        assert h200 <= h100 <= a100


def test_prefill_is_bound_by_compute_and_decode_by_memory() -> None:
    assert LLAMA_8B.compute_s(prefill(8192)) > 5 * LLAMA_8B.memory_s(prefill(8192))
    assert LLAMA_8B.memory_s(decode(8, 1000)) > 5 * LLAMA_8B.compute_s(decode(8, 1000))


def test_parameters_that_are_computed_are_those_of_the_published_models() -> None:
    """From their shapes; the rest is norms."""
    intermediates = {"llama-3.1-8b": 14_336, "llama-3.1-70b": 28_672, "llama-3.1-405b": 53_248, "llama-3.2-1b": 8192}
    for name, intermediate in intermediates.items():
        shape = SHAPES[name]
        attention = shape.hidden * shape.head_dim * (2 * shape.heads + 2 * shape.kv_heads)
        layers = shape.layers * (attention + 3 * shape.hidden * intermediate)
        assert layers == pytest.approx(shape.layer_params, rel=0.001)


@pytest.mark.parametrize(("gpu", "published"), [("RTX4090", 29), ("A100", 58)])
def test_at_peak_70b_in_4_bits_is_as_fast_as_its_bandwidth_bound(gpu: str, published: float) -> None:
    """The published figures are memory bandwidth over 35 GB of weights; engines reach the part that is set."""
    peak = Timing(GPUS[gpu], SHAPES["llama-3.1-70b"], weight_bits=4, efficiency=PEAK)
    assert 1 / peak.step_s(decode()) == pytest.approx(published, rel=0.02)
    assert 0.7 < peak.step_s(decode()) / replace(peak, efficiency=Efficiency()).step_s(decode()) < 0.85


@pytest.mark.parametrize(
    ("model", "tokens", "published_s"),
    [
        ("llama-3.1-70b", 32_768, 0.472),
        ("llama-3.1-70b", 122_880, 2.2),
        ("llama-3.1-405b", 32_768, 1.6),
        ("llama-3.1-405b", 122_880, 7.5),
    ],
)
def test_ttft_of_long_prompts_is_near_what_gh200_nvl32_was_measured_at(
    model: str, tokens: int, published_s: float
) -> None:
    """NVIDIA, 2024-09: 32 GH200, TensorRT-LLM. H100's compute, H200's memory; the precision isn't published."""
    timing = Timing(GPUS["H200"], SHAPES[model], devices=32, weight_bits=8)
    ttft_s = chunked_prefill_s(timing, tokens, chunk=tokens)
    print(f"{model} {tokens}: {ttft_s:.3f} s, published {published_s} s: {ttft_s / published_s:.2f}")
    assert 0.5 < ttft_s / published_s < 2


def test_a_cache_is_what_memory_leaves_beside_the_weights() -> None:
    """An H100 with 8B in 16 bits has room for some 400,000 tokens; 70B fits on two, not on one."""
    assert LLAMA_8B.kv_bytes_per_token == 131_072
    assert 350_000 < LLAMA_8B.kv_tokens(0.9) < 450_000
    assert replace(LLAMA_8B, shape=SHAPES["llama-3.1-70b"]).kv_tokens(0.9) == 0
    assert replace(LLAMA_8B, shape=SHAPES["llama-3.1-70b"], devices=4).kv_tokens(0.9) > 100_000
