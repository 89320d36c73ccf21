"""The tables of metrics in docs/observability.md, made from the catalogues.

    python -m tests.observability.tables

writes them anew; a test fails while they differ.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from segue.base.metrics import Metric
from segue.router.metrics import catalogue as router
from segue.worker.metrics import catalogue as worker

PAGE = Path(__file__).parents[2] / "docs" / "observability.md"
CATALOGUES: dict[str, tuple[Metric, ...]] = {"router metrics": router.METRICS, "worker metrics": worker.METRICS}


def table(metrics: Iterable[Metric]) -> str:
    lines = ["| name | kind | labels | what it counts |", "|---|---|---|---|"]
    for metric in metrics:
        labels = ", ".join(f"`{label}`" for label in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    return "\n".join(lines)


def with_tables(page: str) -> str:
    for title, metrics in CATALOGUES.items():
        pattern = rf"(<!-- {title} -->\n).*?(<!-- /{title} -->)"
        written = rf"\g<1>{table(metrics)}\n\g<2>"
        page, replaced = re.subn(pattern, written, page, flags=re.S)
        assert replaced == 1, f"{PAGE} has no place for {title}"
    return page


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text()))
