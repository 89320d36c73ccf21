"""Tables by columns: what each is called, what it shows of a row, and whether a narrow terminal has it too."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich import box
from rich.console import RenderableType
from rich.table import Table

Row = TypeVar("Row")

WIDE_COLUMNS = 140  # Characters from which on a terminal has all columns.


@dataclass(frozen=True, slots=True)
class Column(Generic[Row]):
    """``words`` stand on the left of their column, figures on the right. ``wide``: only where there is room."""

    title: str
    cell: Callable[[Row], RenderableType]
    words: bool = False
    wide: bool = False


def table_of(title: str, columns: Sequence[Column[Row]], rows: Iterable[Row], *, wide: bool) -> Table:
    shown = [column for column in columns if wide or not column.wide]
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_edge=False)
    for column in shown:
        table.add_column(column.title, justify="left" if column.words else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(column.cell(row) for column in shown))
    return table
