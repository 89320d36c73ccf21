"""What a prefill worker takes, and when it may leave."""

from __future__ import annotations

from segue.engine.settings import EngineRole
from segue.proto.worker_pb2 import Load, Role, Submit


class PrefillRole:
    """Prompts in, token 1 and a ticket out."""

    name: EngineRole = "prefill"
    proto = Role.ROLE_PREFILL

    def refusal(self, submit: Submit) -> str | None:
        if submit.HasField("ticket"):
            return "a prefill worker claims no tickets; send this leg to a decode worker"
        if submit.sampling.max_tokens != 1:
            return f"a prefill worker samples one token, {submit.sampling.max_tokens} were asked for"
        return None

    def drained(self, load: Load) -> bool:
        """Not while it holds blocks that a decode worker may come for."""
        return load.held_offers == 0 and load.running_requests == 0 and load.waiting_requests == 0
