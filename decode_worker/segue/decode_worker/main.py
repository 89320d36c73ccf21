"""``segue decode-worker``."""

from __future__ import annotations

from segue.decode_worker.role import DecodeRole
from segue.worker.main import run_worker
from segue.worker.settings import WorkerSettings


def run(settings: WorkerSettings) -> int:
    """Run a decode worker until it is drained; its exit status."""
    return run_worker(settings, DecodeRole())
