"""A worker process from start to end. The same for both roles; :class:`~segue.worker.role.WorkerRole` is the rest."""

from __future__ import annotations

import asyncio

from segue.base.errors import SettingsError
from segue.base.logging import get_logger, setup_logging
from segue.base.process import on_stop_signals
from segue.engine.factory import make_engine
from segue.worker.life import Worker, errors_in
from segue.worker.role import WorkerRole
from segue.worker.settings import WorkerSettings


def run_worker(settings: WorkerSettings, role: WorkerRole, turns_to: WorkerRole | None = None) -> int:
    """Run until drained or failed; the process's exit status: 0 drained, 1 failed, 2 can't run as configured.

    A flex worker has a role that it ``turns_to`` when told.

    The process is to end with :func:`segue.base.process.exit_now`. A thread inside vLLM may still run, and what the
    interpreter would tear down after it takes seconds that nobody gains by: all that others see is closed.
    """
    setup_logging(settings.log_format)
    worker = Worker(settings, role, make_engine, turns_to)
    status = 2
    try:
        status = asyncio.run(run_until_stopped(worker))
    except* SettingsError as group:
        log = get_logger("worker")
        for error in errors_in(group):
            log.error("cannot_start", error=str(error))
    return status


async def run_until_stopped(worker: Worker) -> int:
    """The first SIGTERM or SIGINT drains it, the second ends the process."""
    on_stop_signals(asyncio.get_running_loop(), worker.begin_drain)
    return await worker.run()
