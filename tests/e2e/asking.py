"""Questions for a cluster through the OpenAI client."""

from __future__ import annotations

from typing import Any

import openai
from openai.types import Completion

from tests.e2e.running import Cluster

PROMPT = "The value of the expression is evaluated once, when the function"
UNENDING = {"ignore_eos": True}


def greedy(sdk: openai.OpenAI, cluster: Cluster, prompt: Any = PROMPT, **asked: Any) -> Completion:
    asked = {"max_tokens": 24, "extra_body": UNENDING, **asked}
    answer: Completion = sdk.completions.create(model=cluster.model, prompt=prompt, temperature=0, **asked)
    return answer


def greedy_stream(
    sdk: openai.OpenAI, cluster: Cluster, prompt: str = PROMPT, **asked: Any
) -> openai.Stream[Completion]:
    stream: openai.Stream[Completion] = sdk.completions.create(
        model=cluster.model, prompt=prompt, temperature=0, stream=True, extra_body=UNENDING, **asked
    )
    return stream
