"""``segue prefill-worker``."""

from __future__ import annotations

from segue.prefill_worker.role import PrefillRole
from segue.worker.main import run_worker
from segue.worker.settings import WorkerSettings


def run(settings: WorkerSettings) -> int:
    """Run a prefill worker until it is drained; its exit status."""
    return run_worker(settings, PrefillRole())
