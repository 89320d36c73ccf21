"""One streamed request, timed where it arrives."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import grpc.aio

from segue.proto.inference_pb2 import GenerateRequest, Path, TokenIds
from segue.proto.inference_pb2_grpc import InferenceStub
from segue.proto.sampling_pb2 import SamplingParams

OPTIONS = [("grpc.max_send_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1)]


@dataclass
class Asked:
    """``gaps_s`` are between messages, of which each has a token as long as the reader keeps up."""

    ttft_s: float = 0.0
    total_s: float = 0.0
    gaps_s: list[float] = field(default_factory=list)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    path: str = ""
    reason: str = ""


async def ask(channel: grpc.aio.Channel, prompt: Sequence[int], max_tokens: int) -> Asked:
    sampling = SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True)
    request = GenerateRequest(token_ids=TokenIds(ids=prompt), sampling=sampling)
    asked = Asked()
    begin_s = last_s = time.perf_counter()
    async for response in InferenceStub(channel).Generate(request, timeout=120):
        now_s = time.perf_counter()
        tokens = sum(len(choice.token_ids) for choice in response.choices)
        if tokens and not asked.ttft_s:
            asked.ttft_s = now_s - begin_s
        elif tokens:
            asked.gaps_s.append(now_s - last_s)
        last_s = now_s
        if response.HasField("usage"):
            asked.prompt_tokens = response.usage.prompt_tokens
            asked.cached_tokens = response.usage.cached_prompt_tokens
            asked.path = Path.Name(response.timings.path).removeprefix("PATH_").lower()
            asked.reason = response.timings.path_reason
    asked.total_s = last_s - begin_s
    return asked
