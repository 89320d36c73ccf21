"""Stopping a running vLLM request and keeping its KV cache on offer, for another engine to go on with.

How the order comes to the connector is told in :mod:`segue.kv_transfer.moves`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from segue.base.ids import new_ticket_id
from segue.kv_transfer.moves import MoveOrder, give


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
    give(request, order)
    engine.abort_request([request_id])
    return Stopped(order.answer or {}, cached_tokens)


async def order_move(llm: Any, request_id: str) -> bool:
    """Have a request of an ``AsyncLLM`` end with its next token, its last output with the connector's answer.

    False if it has ended already. Raises whatever vLLM raises if its workers can't be told.
    """
    for internal_id in llm.output_processor.external_req_ids.get(request_id, ()):
        await llm.collective_rpc("segue_order_move", args=(internal_id, new_ticket_id(), request_id))
        return True
    return False
