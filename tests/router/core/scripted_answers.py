"""What scripted workers answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from segue.proto.sampling_pb2 import SamplingParams

# What the model of both pools answers: prompt and sampling in, all output tokens out.
Answer = Callable[[Sequence[int], SamplingParams], Sequence[int]]


def counting(prompt: Sequence[int], sampling: SamplingParams) -> list[int]:
    """An endless answer, each token of which depends on the one before it and on the seed, as if from a model."""
    tokens, last = [], prompt[-1]
    for _ in range(sampling.max_tokens + 1):
        last = 100 + (3 * last + 7 + 37 * sampling.seed) % 1500
        tokens.append(last)
    return tokens


def telling(story: Sequence[int], prompt: Sequence[int]) -> Answer:
    """The same answer to ``prompt`` whatever of it is input already."""
    return lambda tokens, sampling: story[len(tokens) - len(prompt) :]
