"""One worker's life, from its first word to its last. Many may share a process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Literal

from segue.base.errors import SettingsError
from segue.base.ids import new_epoch
from segue.base.logging import get_logger
from segue.base.versions import PROTOCOL, VERSION
from segue.engine.protocol import Engine
from segue.engine.settings import EngineRole, EngineSettings
from segue.proto.worker_pb2 import EngineFacts, Register, WorkerState
from segue.worker.attachment import Attachment
from segue.worker.drain import DrainClock
from segue.worker.mesh import open_mesh
from segue.worker.releases import Releases
from segue.worker.role import WorkerRole
from segue.worker.routers import RouterStreams
from segue.worker.runtime import WorkerRuntime
from segue.worker.server import WorkerServer, WorkerService
from segue.worker.settings import WorkerSettings
from segue.worker.telemetry import WorkerTelemetry
from segue.worker.turning import Turning
from segue.worker.turns import LEAVE_TIMEOUT_S, Changing, Turns

log = get_logger("worker")


class Worker:
    """The phases of one worker's life, in order: listen, attach, load, serve, drain, stop.

    One with a role to turn to (``turns_to``) is a flex worker: while it serves it may be told to change its role.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        role: WorkerRole,
        make_engine: Callable[[EngineSettings], Engine],
        turns_to: WorkerRole | None = None,
    ) -> None:
        self._settings = settings
        self._role = role
        self._roles = {one.name: one for one in (role, turns_to) if one is not None}
        self._make_engine = make_engine
        self._drain_clock = DrainClock(settings.drain_timeout_s)
        self._draining = asyncio.Event()

    def begin_drain(self) -> None:
        """Take nothing new, finish what runs, then end."""
        self._begin_drain(0.0)

    async def run(self) -> int:
        """Until drained or failed; the exit status.

        Raises:
            SettingsError: it can't run as configured, or a router refuses it.
        """
        self._tls = open_mesh(self._settings, *self._roles)
        epoch = new_epoch()
        engine = self._make_engine(self._settings.engine_settings(self._role.name, epoch, len(self._roles) > 1))
        try:
            status = await self._run(engine, epoch)
        finally:
            await engine.stop()
        log.info("stopped", status=status)
        return status

    async def _run(self, engine: Engine, epoch: str) -> int:
        settings, role = self._settings, self._role
        server = WorkerServer(settings.host, settings.port, self._tls)
        register = Register(
            worker_id=settings.worker_id,
            epoch=epoch,
            role=role.proto,
            address=server.address,
            protocol=PROTOCOL,
            version=VERSION,
            flex=len(self._roles) > 1,
        )
        try:
            async with asyncio.TaskGroup() as tasks, Releases(tasks, settings.worker_id, self._tls) as releases:
                runtime = WorkerRuntime(role, register, engine, releases)
                telemetry = WorkerTelemetry(settings, runtime, engine)
                await telemetry.start(tasks)
                streams = RouterStreams(
                    tasks, settings.routers, lambda address: Attachment(address, runtime, self._tls)
                )
                turns = Turns(self._turning(), Changing(runtime, engine, server, streams, self._roles))
                await server.start(WorkerService(runtime, engine, self._begin_drain, turns.ask))
                log.info("listening", address=server.address, worker_id=settings.worker_id, epoch=epoch)
                streams.begin()
                watching = tasks.create_task(runtime.watch(), name="clock")
                runtime.set_state(WorkerState.WORKER_STATE_LOADING, self._settings.model)
                status = await self._serve(turns, runtime, server, engine)
                load = runtime.current_load()
                blocks = {"free_blocks": load.free_blocks, "kv_blocks": runtime.status.facts.kv_blocks}
                log.info(
                    "leaving", status=status, requests=runtime.open_requests, held_offers=load.held_offers, **blocks
                )
                await server.set_ready(False)
                await runtime.leave(LEAVE_TIMEOUT_S)
                await streams.end()
                watching.cancel()
                await telemetry.stop()
        finally:
            await server.stop()
        return status

    def _begin_drain(self, timeout_s: float) -> float:
        """``timeout_s`` 0 is our own setting. Seconds until the drain must be over."""
        left_s = self._drain_clock.begin(timeout_s, asyncio.get_running_loop().time())
        self._draining.set()
        return left_s

    def _turning(self) -> Turning:
        other: EngineRole | None = next((name for name in self._roles if name != self._role.name), None)
        return Turning(self._role.name, other, self._settings.drain_timeout_s)

    async def _serve(self, turns: Turns, runtime: WorkerRuntime, server: WorkerServer, engine: Engine) -> int:
        """Load, serve, turn and drain; the exit status."""
        starting = asyncio.ensure_future(engine.start(runtime))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait((starting, draining), return_when=asyncio.FIRST_COMPLETED)
            if not starting.done():  # Told to stop while loading: nothing to drain.
                return 0
            facts = starting.result()
            runtime.set_state(WorkerState.WORKER_STATE_READY, _ready(facts), facts)
            await server.set_ready(True)
            turns.turning.loaded()
            await self._until_over(turns, runtime.failure, draining)
            if runtime.failure.done():
                log.error("engine_lost", error=repr(runtime.failure.result()))
                return 1
            await server.set_ready(False)
            drained = await runtime.drain(self._drain_clock)
            return 0 if drained else 1
        finally:
            turns.leave()
            starting.cancel()
            draining.cancel()

    async def _until_over(
        self, turns: Turns, failure: asyncio.Future[BaseException], draining: asyncio.Future[Literal[True]]
    ) -> None:
        """Serve, in one role or the other, until the engine is lost or the worker is to drain."""
        while True:
            asked = asyncio.ensure_future(turns.begun.wait())
            try:
                await asyncio.wait((failure, draining, asked), return_when=asyncio.FIRST_COMPLETED)
            finally:
                asked.cancel()
            if failure.done() or self._draining.is_set():
                turns.leave()
                return
            await turns.carry_out(self._draining)


def _ready(facts: EngineFacts) -> str:
    """For people, who must not take a simulated worker for a real one."""
    return f"ready, simulated {facts.accelerator}" if facts.simulated else "ready"


def errors_in(group: BaseExceptionGroup[SettingsError]) -> list[BaseException]:
    """The errors themselves, without the groups around them."""
    leaves: list[BaseException] = []
    for error in group.exceptions:
        leaves.extend(errors_in(error) if isinstance(error, BaseExceptionGroup) else [error])
    return leaves
