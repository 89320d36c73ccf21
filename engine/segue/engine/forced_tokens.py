"""A vLLM logits processor that fixes a request's first output tokens.

Decode needs it on the exact path: the sampler has to pass through prefill's token 1 with its own random state and
penalty counts, and must come out with that token and no other. vLLM loads it by name, once per engine.
"""

from __future__ import annotations

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import AdapterLogitsProcessor, RequestLogitsProcessor

EXTRA_ARG = "segue_forced_token_ids"
PROCESSOR = f"{__name__}:ForcedTokens"


class ForcedTokens(AdapterLogitsProcessor):
    """Reads ``extra_args["segue_forced_token_ids"]`` of each request."""

    def is_argmax_invariant(self) -> bool:
        return False

    def new_req_logits_processor(self, params: SamplingParams) -> RequestLogitsProcessor | None:
        forced: list[int] | None = (params.extra_args or {}).get(EXTRA_ARG)
        if not forced:
            return None

        def force(output_ids: list[int], logits: torch.Tensor) -> torch.Tensor:
            if len(output_ids) >= len(forced):
                return logits
            only = torch.full_like(logits, float("-inf"))
            only[forced[len(output_ids)]] = 0.0
            return only

        return force
