"""One request's sampling parameters, cut into what prefill and what decode are asked for. Pure."""

from __future__ import annotations

from segue.proto.inference_pb2 import Path
from segue.proto.sampling_pb2 import SamplingParams


def choose_path(sampling: SamplingParams) -> tuple[Path, str]:
    """Seeded, unless decode's sampler needs to have passed through token 1 itself; then the reason too.

    A seed's random state advances with each token, and presence and frequency penalties count output tokens only; a
    token 1 that decode took for prompt would change both. (The repetition penalty counts prompt and output alike.)
    """
    reasons = []
    if sampling.HasField("seed") and (not sampling.HasField("temperature") or sampling.temperature > 0):
        reasons.append("seed")
    if sampling.presence_penalty:
        reasons.append("presence_penalty")
    if sampling.frequency_penalty:
        reasons.append("frequency_penalty")
    if reasons:
        return Path.PATH_EXACT, "+".join(reasons)
    return Path.PATH_SEEDED, ""


def prefill_sampling(sampling: SamplingParams) -> SamplingParams:
    """One token, by the same rules."""
    leg = _without_stop_strings(sampling)
    leg.max_tokens = 1
    leg.min_tokens = min(leg.min_tokens, 1)
    return leg


def decode_sampling(sampling: SamplingParams, path: Path) -> SamplingParams:
    """The rest: all tokens on the exact path, where token 1 is gone through again; else all but token 1."""
    leg = _without_stop_strings(sampling)
    if path == Path.PATH_SEEDED:
        leg.max_tokens -= 1
        leg.min_tokens = max(0, leg.min_tokens - 1)
    return leg


def choice_sampling(sampling: SamplingParams, index: int) -> SamplingParams:
    """Of n answers each has a seed of its own, numbered as vLLM numbers them."""
    if index == 0 or not sampling.HasField("seed"):
        return sampling
    leg = SamplingParams()
    leg.CopyFrom(sampling)
    leg.seed = (sampling.seed + index + 2**63) % 2**64 - 2**63  # Past the largest, on from the smallest.
    return leg


def _without_stop_strings(sampling: SamplingParams) -> SamplingParams:
    leg = SamplingParams()
    leg.CopyFrom(sampling)
    leg.ClearField("stop")
    return leg
