"""Between Segue's messages and vLLM's objects, both ways. Shared by the two adapters."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import msgspec
from vllm import RequestOutput as VllmOutput
from vllm import SamplingParams as VllmSampling
from vllm.logprobs import Logprob
from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

from segue.base.ids import new_ticket_id
from segue.engine.forced_tokens import EXTRA_ARG
from segue.engine.vllm_move import Stopped
from segue.kv_transfer.connector_config import KEY, ConnectorConfig
from segue.kv_transfer.moves import MOVED
from segue.proto.kv_transfer_pb2 import BlockLayout, Ticket
from segue.proto.sampling_pb2 import FinishReason, PositionLogprobs, SamplingParams, StructuredOutputs, TokenLogprob
from segue.proto.worker_pb2 import EngineUsage, RequestError, RequestOutput, Submit, Transfer

_SCALARS = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "max_tokens",
    "min_tokens",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "ignore_eos",
    "logprobs",
)

_FINISH = {
    "stop": FinishReason.FINISH_REASON_STOP,
    "length": FinishReason.FINISH_REASON_LENGTH,
    "abort": FinishReason.FINISH_REASON_ABORT,
    "error": FinishReason.FINISH_REASON_ERROR,
}


def to_vllm_sampling(submit: Submit) -> VllmSampling:
    """vLLM's sampling parameters for one leg.

    Stop strings stay behind: the router, which has the text, looks for them.
    """
    sampling: SamplingParams = submit.sampling
    given = {name: getattr(sampling, name) for name in _SCALARS if sampling.HasField(name)}
    extra: dict[str, Any] = {"kv_transfer_params": _kv_params(submit)}
    if submit.forced_token_ids:
        extra[EXTRA_ARG] = list(submit.forced_token_ids)
    return VllmSampling(
        **given,
        stop_token_ids=list(sampling.stop_token_ids) or None,
        logit_bias=dict(sampling.logit_bias) or None,
        structured_outputs=_constraint(sampling.structured_outputs)
        if sampling.HasField("structured_outputs")
        else None,
        detokenize=False,
        output_kind=RequestOutputKind.DELTA,
        extra_args={name: value for name, value in extra.items() if value is not None},
    )


def _constraint(asked: StructuredOutputs) -> StructuredOutputsParams:
    """Raises vLLM's validation error if there is none."""
    kind = asked.WhichOneof("constraint")
    given: dict[str, Any] = {}
    if kind == "json_schema":
        given = {"json": asked.json_schema}
    elif kind == "choice":
        given = {"choice": list(asked.choice.options)}
    elif kind is not None:
        given = {kind: getattr(asked, kind)}
    return StructuredOutputsParams(**given)


def _kv_params(submit: Submit) -> dict[str, Any] | None:
    if submit.offer_kv:
        offer = {"ticket_id": new_ticket_id(), "request_id": submit.request_id}
        # vLLM's own connectors go by do_remote_decode; ours by the offer.
        return {"do_remote_decode": True, "do_remote_prefill": False, KEY: {"offer": offer}}
    if submit.HasField("ticket"):
        described = msgspec.msgpack.decode(submit.ticket.nixl) if submit.ticket.nixl else {}
        claim = {"ticket": submit.ticket.SerializeToString(), "timeout_s": submit.timeout_s}
        return {**described, KEY: {"claim": claim}}
    return None


class OutputTranslator:
    """vLLM's request outputs to Segue's, with tickets minted in the name of this engine."""

    def __init__(self, config: ConnectorConfig, layout: BlockLayout, transport: str) -> None:
        self._config = config
        self._layout = layout
        self._transport = transport

    def translate(self, output: VllmOutput, submit: Submit) -> RequestOutput:
        (completion,) = output.outputs
        message = RequestOutput(request_id=submit.request_id, token_ids=completion.token_ids)
        if completion.logprobs is not None:
            top = submit.sampling.logprobs
            pairs = zip(completion.token_ids, completion.logprobs, strict=True)
            message.logprobs.extend(_position(token_id, by_id, top) for token_id, by_id in pairs)
        if completion.finish_reason is None:
            return message
        message.finish_reason = _FINISH.get(completion.finish_reason, FinishReason.FINISH_REASON_STOP)
        if message.finish_reason == FinishReason.FINISH_REASON_ERROR:
            message.error.CopyFrom(_given_up(submit))
        if isinstance(completion.stop_reason, int):
            message.stop_token_id = completion.stop_reason
        params = output.kv_transfer_params or {}
        self._add_usage(message, output.num_cached_tokens or 0, submit, params.get(KEY, {}).get("report"))
        if (times := output.metrics) is not None and times.scheduled_ts and times.first_token_ts:
            message.usage.queue_s = max(0.0, times.scheduled_ts - times.queued_ts)
            message.usage.compute_s = max(0.0, times.first_token_ts - times.scheduled_ts)
        ours = params.get(KEY, {})
        if ours.get(MOVED):
            message.finish_reason = FinishReason.FINISH_REASON_ABORT
        if (submit.offer_kv or MOVED in ours) and "tokens" in ours:
            message.offer.CopyFrom(self._ticket(submit, params))
        return message

    def stopped(self, submit: Submit, stopped: Stopped) -> RequestOutput:
        """The last output of a request that was stopped so that another engine goes on with it."""
        message = RequestOutput(request_id=submit.request_id, finish_reason=FinishReason.FINISH_REASON_ABORT)
        ours = stopped.params.get(KEY, {})
        self._add_usage(message, stopped.cached_tokens, submit, ours.get("report"))
        if "tokens" in ours:
            message.offer.CopyFrom(self._ticket(submit, stopped.params))
        return message

    def _add_usage(
        self, message: RequestOutput, cached_in_all: int, submit: Submit, report: Mapping[str, Any] | None
    ) -> None:
        transferred = 0
        if report is not None:
            transferred = 0 if report["error"] else report["tokens"]
            message.transfer.CopyFrom(
                Transfer(
                    transport=report["transport"],
                    bytes=report["bytes"],
                    seconds=report["seconds"],
                    error=report["error"],
                    corrupt=report["corrupt"],
                    digest_seconds=report["digest_seconds"],
                )
            )
        input_tokens = len(submit.input_token_ids)
        message.usage.CopyFrom(
            EngineUsage(
                input_tokens=input_tokens,
                cached_tokens=max(0, cached_in_all - transferred),
                transferred_tokens=transferred,
                # vLLM counts a prompt that was loaded whole as cached whole, but runs its last token to get logits.
                computed_tokens=max(1, input_tokens - cached_in_all),
            )
        )

    def _ticket(self, submit: Submit, params: Mapping[str, Any]) -> Ticket:
        ours = params[KEY]
        # With the second one vLLM would count the producer's cache hits as the consumer's.
        theirs = {n: value for n, value in params.items() if n not in {KEY, "remote_prefill_cached_tokens"}}
        return Ticket(
            ticket_id=ours["ticket_id"],
            producer_id=self._config.worker_id,
            producer_epoch=self._config.epoch,
            request_id=submit.request_id,
            layout=self._layout,
            tokens=ours["tokens"],
            blocks=ours["blocks"],
            lease_s=self._config.lease_s,
            expires_unix_s=time.time() + self._config.lease_s,
            transport=self._transport,
            address=ours["address"],
            nixl=msgspec.msgpack.encode(theirs) if theirs else b"",
        )


def _given_up(submit: Submit) -> RequestError:
    """vLLM doesn't say why. Of a request with a constraint it is that, and would be on any other worker."""
    if not submit.sampling.HasField("structured_outputs"):
        return RequestError(kind=RequestError.KIND_UNAVAILABLE, message="the engine gave up on the request")
    kind = submit.sampling.structured_outputs.WhichOneof("constraint")
    return RequestError(
        kind=RequestError.KIND_INVALID,
        message=f"the engine can't hold the answer to the {kind} of structured_outputs: it doesn't compile, or it "
        "leaves no token that min_tokens, ignore_eos, logit_bias and stop_token_ids allow too; change one of them",
    )


def _position(token_id: int, by_id: Mapping[int, Logprob], top: int) -> PositionLogprobs:
    """vLLM gives the sampled token and the best ``top`` in one mapping; they are told apart by id and rank."""
    best = sorted((entry.rank or 0, candidate) for candidate, entry in by_id.items() if (entry.rank or 0) <= top)
    return PositionLogprobs(
        sampled=_token(token_id, by_id[token_id]),
        top=[_token(candidate, by_id[candidate]) for _, candidate in best[:top]],
    )


def _token(token_id: int, entry: Logprob) -> TokenLogprob:
    return TokenLogprob(token_id=token_id, logprob=entry.logprob, rank=entry.rank or 0)
