"""What a decode worker takes, and when it may leave."""

from __future__ import annotations

from segue.engine.settings import EngineRole
from segue.proto.worker_pb2 import Load, Role, Submit


class DecodeRole:
    """Tickets in, tokens out. Without a ticket it computes the prompt itself."""

    name: EngineRole = "decode"
    proto = Role.ROLE_DECODE

    def refusal(self, submit: Submit) -> str | None:
        if submit.offer_kv:
            return "a decode worker offers no KV cache; send this leg to a prefill worker"
        return None

    def drained(self, load: Load) -> bool:
        """Not while it holds blocks of requests that it has moved to another worker."""
        return load.held_offers == 0 and load.running_requests == 0 and load.waiting_requests == 0
