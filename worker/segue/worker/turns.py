"""Carries out a flex worker's turns: empties it, has the engine and the registration change, attaches it anew."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from segue.base.errors import Conflict
from segue.base.logging import get_logger
from segue.engine.protocol import Engine
from segue.engine.settings import EngineRole
from segue.proto.worker_pb2 import Register, TurnResponse
from segue.worker.role import WorkerRole
from segue.worker.routers import RouterStreams
from segue.worker.runtime import WorkerRuntime
from segue.worker.server import WorkerServer
from segue.worker.turning import Phase, Step, Turning

log = get_logger("worker")

LEAVE_TIMEOUT_S = 2.0


@dataclass(frozen=True)
class Changing:
    """What changes with the role. ``roles`` are those that the worker may have."""

    runtime: WorkerRuntime
    engine: Engine
    server: WorkerServer
    streams: RouterStreams
    roles: Mapping[EngineRole, WorkerRole]


class Turns:
    """Between those who ask for turns and the worker's life, which calls :meth:`carry_out` when ``begun`` is set."""

    def __init__(self, turning: Turning, changing: Changing) -> None:
        self.turning = turning
        self.begun = asyncio.Event()
        self._changing = changing
        self._asked_s = 0.0
        self._outcome: asyncio.Future[TurnResponse] | None = None
        self._now_s = asyncio.get_running_loop().time

    async def ask(self, role: EngineRole, timeout_s: float) -> TurnResponse:
        """Turn, and wait until that is over; being cancelled changes nothing about the turn.

        Raises:
            Conflict: it can't turn, or has gone back to its old role.
        """
        now_s = self._now_s()
        self.turning.ask(role, timeout_s, now_s)
        self._changing.runtime.look_again()
        if self.turning.target != role:
            return TurnResponse()
        if self._outcome is None:
            self._asked_s = now_s
            self._outcome = asyncio.get_running_loop().create_future()
            self.begun.set()
        return await asyncio.shield(self._outcome)

    async def carry_out(self, draining: asyncio.Event) -> None:
        """One turn, until the worker is ready again in one role or the other, is told to drain, or lost its engine."""
        self.begun.clear()
        changing, runtime = self._changing, self._changing.runtime
        await changing.server.set_ready(False)
        if not await self._get_empty(draining):
            self._stay(draining)
            if self.turning.phase is Phase.STEADY:
                await changing.server.set_ready(True)
            return
        empty_s = self._now_s() - self._asked_s
        await self._change()
        ready_s = self._now_s() - self._asked_s
        log.info("turned", role=self.turning.role, empty_s=round(empty_s, 3), ready_s=round(ready_s, 3))
        self._end(TurnResponse(empty_s=empty_s, ready_s=ready_s))
        if not runtime.failure.done():
            await changing.server.set_ready(True)

    def leave(self) -> None:
        """The worker leaves: nobody is to wait any longer."""
        self.turning.leave()
        self._end(Conflict("the worker was told to leave, or lost its engine, before it had turned"))

    async def _get_empty(self, draining: asyncio.Event) -> bool:
        """Take nothing new until nothing of the old role is left; False if it is not to turn any more."""
        turning, runtime = self.turning, self._changing.runtime
        word = f"turning to {turning.target}"
        while not (draining.is_set() or runtime.failure.done()):
            # Told before it is looked at: what comes in the meantime is refused.
            runtime.tell_emptying(word, turning.left_s(self._now_s()))
            match turning.look(runtime.empty, self._now_s()):
                case Step.CHANGE:
                    return True
                case Step.STAY:
                    return False
                case Step.WAIT:
                    await runtime.moment()
        return False

    def _stay(self, draining: asyncio.Event) -> None:
        runtime, role = self._changing.runtime, self.turning.role
        if draining.is_set() or runtime.failure.done():
            self.leave()
            return
        why = f"{runtime.left_over()} when the time was up or the turn was called off; it is a {role} worker as before"
        log.warning("turn_given_up", role=role, why=why)
        runtime.take_role(self._changing.roles[role], runtime.register, runtime.status.facts)
        self._end(Conflict(why))

    async def _change(self) -> None:
        """The streams end before the role does, and the new ones begin with it."""
        changing, runtime, turning = self._changing, self._changing.runtime, self.turning
        role = turning.target
        assert role is not None
        routers = runtime.attached_routers
        await runtime.leave(LEAVE_TIMEOUT_S)
        await changing.streams.end()
        facts = await changing.engine.take_role(role)
        turning.changed()
        register = Register()
        register.CopyFrom(runtime.register)
        register.role, register.turns = changing.roles[role].proto, turning.turns
        runtime.take_role(changing.roles[role], register, facts)
        changing.streams.begin()
        await runtime.attached(routers, LEAVE_TIMEOUT_S)

    def _end(self, outcome: TurnResponse | Conflict) -> None:
        waiting, self._outcome = self._outcome, None
        if waiting is None:
            return
        if isinstance(outcome, TurnResponse):
            waiting.set_result(outcome)
        else:
            waiting.set_exception(outcome)
            waiting.exception()  # Whoever asked may be gone; then nobody takes it.
