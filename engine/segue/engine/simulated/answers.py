"""What a simulated engine answers besides tokens: refusals, failures and last outputs."""

from __future__ import annotations

import numpy as np

from segue.engine.simulated.request import SimRequest
from segue.proto.sampling_pb2 import FINISH_REASON_ERROR, FinishReason
from segue.proto.worker_pb2 import EngineUsage, RequestError, RequestOutput, Submit


def refusal_of(submit: Submit, vocab_size: int, max_len_tokens: int) -> RequestError | None:
    """Why this leg can't be simulated; None if it can."""
    problem = ""
    tokens = submit.input_token_ids
    if not tokens:
        problem = "the prompt is empty; give at least one token"
    elif len(tokens) >= max_len_tokens:
        problem = f"the prompt has {len(tokens)} tokens; the engine takes {max_len_tokens - 1} at most"
    elif (largest := int(np.array(tokens, dtype=np.uint32).max())) >= vocab_size:
        problem = f"the prompt has token {largest}; the vocabulary ends at {vocab_size - 1}"
    elif submit.sampling.HasField("structured_outputs"):
        problem = "a simulated engine has no grammar: it can't hold an answer to structured_outputs; leave them out"
    elif submit.sampling.HasField("logprobs"):
        problem = "a simulated engine has no logits and gives no logprobs; leave them out"
    return RequestError(kind=RequestError.KIND_INVALID, message=problem) if problem else None


def failed(request_id: str, error: RequestError) -> RequestOutput:
    return RequestOutput(request_id=request_id, finish_reason=FINISH_REASON_ERROR, error=error)


def last_output(request: SimRequest, reason: FinishReason) -> RequestOutput:
    """With usage and, if there was one, the transfer."""
    cached, transferred = request.cached_tokens, request.transferred_tokens
    return RequestOutput(
        request_id=request.request_id,
        finish_reason=reason,
        usage=EngineUsage(
            input_tokens=request.input_tokens,
            cached_tokens=cached,
            transferred_tokens=transferred,
            # A prompt that was there whole still has its last token computed.
            computed_tokens=max(1, request.input_tokens - cached - transferred),
            queue_s=max(0.0, request.scheduled_s - request.taken_s),
            compute_s=max(0.0, request.first_token_s - request.scheduled_s),
        ),
        transfer=request.transfer,
    )
