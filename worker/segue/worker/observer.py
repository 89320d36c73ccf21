"""What a worker's runtime tells whoever watches it."""

from __future__ import annotations

from collections.abc import Sequence

from segue.proto.worker_pb2 import Load, Register, RequestOutput, Submit


class WorkerObserver:
    """An observer overrides what it wants to know. Called on the event loop; never blocks and never raises."""

    def on_role(self, register: Register) -> None:
        """The worker is ready in this role: it has turned, or would have. No legs are open."""

    def on_taken(self, submit: Submit) -> None:
        """A leg begins."""

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        """The engine has made a step, or has something else to tell. Outputs of legs that were aborted may be there."""

    def on_over(self, last: RequestOutput) -> None:
        """A leg is over; ``last`` has its finish reason. Of an aborted one nothing else is known."""


class WorkerObservers(WorkerObserver):
    """Several as one."""

    def __init__(self, *observers: WorkerObserver) -> None:
        self._observers = observers

    def on_role(self, register: Register) -> None:
        for observer in self._observers:
            observer.on_role(register)

    def on_taken(self, submit: Submit) -> None:
        for observer in self._observers:
            observer.on_taken(submit)

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        for observer in self._observers:
            observer.on_step(outputs, load)

    def on_over(self, last: RequestOutput) -> None:
        for observer in self._observers:
            observer.on_over(last)
