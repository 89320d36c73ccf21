"""What a worker needs of an engine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from segue.engine.settings import EngineRole
from segue.proto.worker_pb2 import EngineCounters, EngineFacts, KvEvent, Load, RequestOutput, Submit


class EngineListener(Protocol):
    """Told what the engine does. All calls come on the event loop that started the engine."""

    def on_loaded(self) -> None:
        """The model is in memory; the warm-up requests begin."""

    def on_step(self, outputs: Sequence[RequestOutput], load: Load) -> None:
        """One engine step: what it gave each request (possibly to none), and the load after it."""

    def on_kv_events(self, events: Sequence[KvEvent]) -> None:
        """What became of blocks in the prefix cache, in order; said before the step that it came of.

        A name is stored once, however many copies the engine has, and removed with the last of them. An engine that
        can't tell never calls this.
        """

    def on_failure(self, error: BaseException) -> None:
        """The engine has stopped for good; whatever it held is lost."""


class Engine(Protocol):
    """One model on one set of devices.

    A request is named by the router's id; the engine answers each submitted one with outputs, the last of which has a
    finish reason, unless it is aborted. Faults of a request come as its last output, with an error.
    """

    async def start(self, listener: EngineListener) -> EngineFacts:
        """Load the model and run warm-up requests.

        Raises:
            SettingsError: the engine refuses its arguments.
        """

    def submit(self, submit: Submit) -> None:
        """Queue one leg of a request. Returns at once."""

    def abort(self, request_id: str) -> None:
        """Drop a request and free its blocks; no output follows. Unknown ids are ignored."""

    def move(self, request_id: str) -> None:
        """Stop a request so that another engine goes on with it. Unknown ids are ignored.

        Answered by a last output with FINISH_REASON_ABORT and no error, behind all its tokens. With it comes an offer
        of the KV cache of all tokens but the last, if the engine has them computed and can hold them.
        """

    async def take_role(self, role: EngineRole) -> EngineFacts:
        """Serve as this role from now on, with weights and prefix cache as they are; the facts from now on.

        Only of an engine that was started as ``flex``, and only while it has no requests and holds no offers.
        """

    def load(self) -> Load:
        """As of the last step."""

    def counters(self) -> EngineCounters:
        """Since warm-up ended, by the engine's own statistics."""

    async def stop(self) -> None:
        """End the engine, whatever it is doing. Ports and transfers are closed; memory is left to the process's end.

        Loading a model can't be interrupted: told to stop meanwhile, this returns at once and the engine goes on until
        the process ends (see :func:`segue.base.process.exit_now`).
        """
