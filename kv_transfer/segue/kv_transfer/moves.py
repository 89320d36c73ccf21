"""Running requests that stop so that another engine goes on with them, as the scheduler half of a connector sees them.

Two ways lead there. In the engine's own process the order is put into the request's parameters and the request is
aborted; vLLM drops what a connector answers for an aborted request, so the answer stays in the order. To an engine core
in another process the order comes by way of vLLM's workers, which have the one call that goes there: the request's
``max_tokens`` is lowered so that its next token is the last one, and vLLM ends it by itself, behind all its tokens and
with the answer in its last output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from segue.kv_transfer.connector_config import KEY

if TYPE_CHECKING:
    from vllm.v1.request import Request

# In the answer of a request that was stopped to be moved, not of one that ended by itself.
MOVED = "moved"


@dataclass(slots=True)
class MoveOrder:
    """Among a request's parameters (under ``move``) when it stops: hold its blocks and offer them.

    ``max_tokens`` is what the request was to end at before the order lowered it; None if it is aborted.
    """

    ticket_id: str
    request_id: str
    max_tokens: int | None = None
    answer: dict[str, Any] | None = None


class Moves:
    """The requests of one engine that may be told to move. On the engine's thread."""

    def __init__(self) -> None:
        self._open: dict[str, Request] = {}

    def on_new_request(self, request: Request) -> None:
        self._open[request.request_id] = request

    def on_orders(self, orders: Mapping[str, MoveOrder]) -> None:
        """Have requests (by the engine's id) end with their next token. One that has ended meanwhile is left alone."""
        for name, order in orders.items():
            request = self._open.get(name)
            if request is None or "move" in ours(request):
                continue
            order.max_tokens = request.max_tokens
            request.max_tokens = min(request.max_tokens, request.num_output_tokens + 1)
            give(request, order)

    def finished(self, request: Request) -> MoveOrder | None:
        """The order that a request which ends has to be offered by. None if it has none or ends for another reason."""
        from vllm.v1.request import RequestStatus

        self._open.pop(request.request_id, None)
        order: MoveOrder | None = ours(request).get("move")
        if order is None or order.max_tokens is None:
            return order
        lowered = request.status == RequestStatus.FINISHED_LENGTH_CAPPED
        return order if lowered and request.num_output_tokens < order.max_tokens else None


def give(request: Request, order: MoveOrder) -> None:
    """Put the order into the request's parameters, where :meth:`Moves.finished` finds it."""
    params = request.kv_transfer_params or {}
    request.kv_transfer_params = {**params, KEY: {**params.get(KEY, {}), "move": order}}


def movable_tokens(request: Request) -> int:
    """Tokens, from the first on, whose KV is computed and stays as it is: at most all but the last.

    The last token's KV is not computed, or only by a step still under way, whose results nobody takes.
    """
    tokens: int = min(request.num_computed_tokens - request.num_in_flight_tokens, request.num_tokens - 1)
    return tokens


@contextmanager
def like_a_prefill(request: Request) -> Iterator[None]:
    """Have vLLM's NIXL connector, which holds blocks of nothing else, take a request for a finished prefill."""
    from vllm.v1.request import RequestStatus

    status, params = request.status, request.kv_transfer_params
    request.status = RequestStatus.FINISHED_LENGTH_CAPPED
    request.kv_transfer_params = {"do_remote_decode": True}
    try:
        yield
    finally:
        request.status, request.kv_transfer_params = status, params


def ours(request: Request) -> dict[str, Any]:
    """What Segue has put into a request's parameters."""
    params: dict[str, Any] = (request.kv_transfer_params or {}).get(KEY, {})
    return params
