"""Stopping a running vLLM request and keeping its KV cache on offer, for another engine to go on with.

vLLM ends a request either by itself or by an abort, and drops what a connector says of an aborted one. So the order to
offer is put into the request's own parameters first, and the connector's answer is read from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segue.base.ids import new_ticket_id
from segue.kv_transfer.connector_config import KEY, MoveOrder


@dataclass(frozen=True, slots=True)
class Stopped:
    """``params`` are the connector's, as with a request that finishes; ``cached_tokens`` as vLLM counts them."""

    params: dict[str, Any]
    cached_tokens: int


def stop_and_offer(engine: Any, request_id: str) -> Stopped:
    """Abort a request of an in-process ``LLMEngine``. To be called between steps, on the thread that takes them."""
    scheduler = engine.engine_core.engine_core.scheduler
    internal_ids = engine.output_processor.external_req_ids.get(request_id, ())
    request = next((scheduler.requests[name] for name in internal_ids if name in scheduler.requests), None)
    if request is None:
        engine.abort_request([request_id])
        return Stopped({}, 0)
    cached_tokens = engine.output_processor.request_states[request.request_id].num_cached_tokens
    order = MoveOrder(new_ticket_id(), request_id)
    params = request.kv_transfer_params or {}
    request.kv_transfer_params = {**params, KEY: {**params.get(KEY, {}), "move": order}}
    engine.abort_request([request_id])
    return Stopped(order.answer or {}, cached_tokens)
