"""What prefill and what decode are asked for, at the start of an answer and after any number of its tokens. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segue.proto.inference_pb2 import PATH_EXACT, PATH_SEEDED, Path
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.sampling_pb2 import SamplingParams
from segue.proto.worker_pb2 import Submit
from segue.router.prompt_tokens import PromptTokens


def choose_path(sampling: SamplingParams) -> tuple[Path, str]:
    """Seeded, unless decode's sampler needs to have passed through all output tokens itself; then the reason too.

    A seed's random state advances with each token, and presence and frequency penalties count output tokens only;
    output tokens that decode took for prompt would change both. (The repetition penalty counts prompt and output
    alike.) A grammar advances with each output token too; prefill's token must have moved decode's.
    """
    reasons = []
    if sampling.HasField("seed") and (not sampling.HasField("temperature") or sampling.temperature > 0):
        reasons.append("seed")
    if sampling.presence_penalty:
        reasons.append("presence_penalty")
    if sampling.frequency_penalty:
        reasons.append("frequency_penalty")
    if sampling.HasField("structured_outputs"):
        reasons.append("structured_outputs")
    if reasons:
        return PATH_EXACT, "+".join(reasons)
    return PATH_SEEDED, ""


@dataclass(frozen=True, slots=True)
class Legs:
    """One answer's legs. ``output`` is what the answer has so far; ``timeout_s`` what is left of its deadline.

    On the exact path decode gets the prompt alone and is made to sample ``output`` again, token by token, so that its
    sampler is in the state it would be in had nothing happened. Otherwise ``output`` is input like the prompt.
    """

    prompt: PromptTokens
    sampling: SamplingParams
    exact: bool
    priority: int = 0

    def prefill(self, leg_id: str, output: Sequence[int], timeout_s: float) -> Submit:
        """One token, and the KV cache of what is before it.

        On the exact path and with output, only the KV cache is of use; nothing may then keep the engine from
        offering it, so the token that comes with it can't be one that ends an answer.
        """
        leg = prefill_sampling(self.sampling, len(output))
        if self.exact and output:
            leg.ignore_eos = True
            leg.min_tokens = 0
            for name in ("stop_token_ids", "logprobs", "structured_outputs"):
                leg.ClearField(name)
        return self._with_input(
            output,
            request_id=leg_id,
            sampling=leg,
            timeout_s=timeout_s,
            priority=self.priority,
            offer_kv=self.sampling.max_tokens - len(output) > 1 or bool(self.exact and output),
        )

    def decode(self, leg_id: str, output: Sequence[int], ticket: Ticket | None, timeout_s: float) -> Submit:
        """The rest, behind a ticket's KV cache; without one, decode computes its input itself."""
        return self._with_input(
            output,
            request_id=leg_id,
            sampling=decode_sampling(self.sampling, 0 if self.exact else len(output)),
            timeout_s=timeout_s,
            priority=self.priority,
            ticket=ticket,
            forced_token_ids=output if self.exact else (),
        )

    def _with_input(self, output: Sequence[int], **fields: Any) -> Submit:
        submit = Submit(**fields)
        submit.input_token_ids.MergeFrom(self.prompt.message.ids)
        if not self.exact:
            submit.input_token_ids.extend(output)
        return submit


def prefill_sampling(sampling: SamplingParams, output_tokens: int = 0) -> SamplingParams:
    """One token, by the same rules."""
    leg = _without_stop_strings(sampling)
    leg.max_tokens = 1
    leg.min_tokens = min(max(0, leg.min_tokens - output_tokens), 1)
    return leg


def decode_sampling(sampling: SamplingParams, output_tokens: int) -> SamplingParams:
    """The rest of an answer of which ``output_tokens`` are input."""
    leg = _without_stop_strings(sampling)
    leg.max_tokens -= output_tokens
    leg.min_tokens = max(0, leg.min_tokens - output_tokens)
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
