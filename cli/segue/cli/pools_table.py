"""Workers as their pools know them, as a table: where each runs and what it has there. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table

from segue.cli.columns import WIDE_COLUMNS, Column, table_of
from segue.cli.units import duration
from segue.cluster.pools import PoolsView, PoolView, PoolWorker

_Row = tuple[PoolView, PoolWorker]

_COLUMNS: tuple[Column[_Row], ...] = (
    Column("worker", lambda row: row[1].worker_id, words=True),
    Column("pool", lambda row: f"{row[0].name}, flex" if row[1].flex else row[0].name, words=True),
    Column("state", lambda row: row[1].phase, words=True),
    Column("on", lambda row: row[1].place, words=True),
    Column("process", lambda row: row[1].process, words=True),
    Column("restarts", lambda row: str(row[1].restarts)),
    Column("has", lambda row: resources_text(row[1].resources), words=True, wide=True),
    Column("address", lambda row: row[1].address, words=True, wide=True),
    Column("epoch", lambda row: row[1].epoch, words=True, wide=True),
    Column("last turn", lambda row: duration(row[1].last_turn_s) if row[1].last_turn_s else "", wide=True),
)


def resources_text(resources: Mapping[str, float]) -> str:
    """``1 CPU, 0.5 GPU``."""
    return ", ".join(f"{amount:g} {name}" for name, amount in sorted(resources.items()))


def pools_table(view: PoolsView, width: int) -> Table:
    """For so many characters: from :data:`WIDE_COLUMNS` on with what each worker has, its address and its epoch."""
    rows = [(pool, worker) for pool in view.pools for worker in pool.workers]
    return table_of(f"{view.backend} pools".lstrip(), _COLUMNS, rows, wide=width >= WIDE_COLUMNS)
