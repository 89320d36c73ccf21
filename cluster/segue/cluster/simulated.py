"""Many simulated workers in one process, each a whole worker with its own streams to the routers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import uvloop

from segue.base.errors import SettingsError
from segue.base.logging import LogFormat, get_logger, setup_logging
from segue.base.process import on_stop_signals
from segue.decode_worker.role import DecodeRole
from segue.engine.settings import EngineRole
from segue.engine.simulated.engine import SimulatedEngine
from segue.engine.simulated.kv_peers import KvPeers
from segue.prefill_worker.role import PrefillRole
from segue.worker.life import Worker, errors_in
from segue.worker.settings import WorkerSettings

log = get_logger("worker")

_ROLES: dict[EngineRole, type[PrefillRole] | type[DecodeRole]] = {"prefill": PrefillRole, "decode": DecodeRole}


@dataclass(frozen=True)
class Hosted:
    """One worker of the process."""

    role: EngineRole
    settings: WorkerSettings


def numbers_of(total: int, part: int, parts: int) -> range:
    """Which of ``total`` workers the process ``part`` of ``parts`` runs."""
    return range(part, total, parts)


def run_simulated_workers(hosted: Sequence[Hosted], log_format: LogFormat = "auto") -> int:
    """Run them until all have drained or failed; the exit status: 0 drained, 1 one failed, 2 can't run as configured.

    A worker whose engine breaks leaves alone: the others go on.
    """
    setup_logging(log_format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_run(hosted))
    except* SettingsError as group:
        for error in errors_in(group):
            log.error("cannot_start", error=str(error))
    return 2


async def _run(hosted: Sequence[Hosted]) -> int:
    host = hosted[0].settings.host if hosted else "127.0.0.1"
    peers = KvPeers(host)
    workers = [
        Worker(one.settings, _ROLES[one.role](), lambda settings: SimulatedEngine(settings, peers)) for one in hosted
    ]

    def drain() -> None:
        for worker in workers:
            worker.begin_drain()

    on_stop_signals(asyncio.get_running_loop(), drain)
    log.info("simulated_workers", workers=len(workers))
    try:
        async with asyncio.TaskGroup() as tasks:
            running = [
                tasks.create_task(worker.run(), name=one.settings.worker_id)
                for worker, one in zip(workers, hosted, strict=True)
            ]
    finally:
        await peers.close()
    return max((task.result() for task in running), default=0)
