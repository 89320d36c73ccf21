"""Requests that an engine runs before it is ready, so that no client waits for what happens only once."""

from __future__ import annotations

from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import Submit


def warm_up_submits() -> list[Submit]:
    """A greedy request and one that uses most of the sampler."""
    samplings = (
        SamplingParams(temperature=0, max_tokens=3, ignore_eos=True),
        SamplingParams(seed=1, top_p=0.9, presence_penalty=0.5, max_tokens=3, logprobs=2, ignore_eos=True),
    )
    return [
        Submit(request_id=f"warm-up-{number}", input_token_ids=[10 + number] * 200, sampling=sampling)
        for number, sampling in enumerate(samplings)
    ]
