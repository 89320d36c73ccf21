"""What tells a prefill worker from a decode worker."""

from __future__ import annotations

from typing import Protocol

from segue.engine.settings import EngineRole
from segue.proto.worker_pb2 import Load, Role, Submit


class WorkerRole(Protocol):
    """Pure decisions; the runtime does the rest."""

    name: EngineRole
    proto: Role

    def refusal(self, submit: Submit) -> str | None:
        """Why this worker can't take this leg; None if it can."""

    def drained(self, load: Load) -> bool:
        """Whether a draining worker with this load may leave."""
