"""What vLLM's workers do for us beside running the model (``worker_extension_cls``); called by ``collective_rpc``.

An engine core in a process of its own takes commands of vLLM's only. Among them are calls of its workers' methods, and
this is one more method.
"""

from __future__ import annotations

from vllm.distributed.kv_transfer import get_kv_transfer_group

from segue.kv_transfer.moves import MoveOrder


class SegueWorkerExtension:
    """vLLM makes it a base of its own worker class."""

    def segue_order_move(self, engine_request_id: str, ticket_id: str, request_id: str) -> None:
        """Have a running request end with its next token and be offered under ``ticket_id``."""
        get_kv_transfer_group().order_move(engine_request_id, MoveOrder(ticket_id, request_id))
