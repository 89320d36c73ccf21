"""The figures as a table for people, and as Markdown for documents: the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_HEAD = (
    "| front | API | CPU us/token | lowest-highest | vs best peer | tokens at a time | ITL p50 / p99, ms | RSS, MiB "
    "| CPU us/request | TTFT p50 / p99, ms |"
)
_RULE = "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|"
_OURS = ("segue", "none")


def table(rows: Sequence[dict[str, Any]], loads: Sequence[str]) -> str:
    parts = []
    for load in loads:
        here = [row for row in rows if row["load"] == load]
        peers = [row["streaming"]["cpu_us_per_token"] for row in here if row["front"] not in _OURS]
        best = min(peers, default=0.0)
        parts += [f"\n{load}, medians\n", _HEAD, _RULE, *(_row(row, best) for row in here)]
    return "\n".join(parts)


def _row(row: dict[str, Any], best: float) -> str:
    streaming, requests = row["streaming"], row["requests"]
    cost = streaming["cpu_us_per_token"]
    cells = (
        row["front"],
        row["api"],
        f"{cost:.1f}",
        f"{streaming['lowest']:.1f}-{streaming['highest']:.1f}",
        f"{cost / best:.2f}" if best and cost else "",
        f"{streaming['tokens_per_message']:.1f}",
        f"{streaming['itl_p50_ms']:.1f} / {streaming['itl_p99_ms']:.1f}",
        f"{streaming['rss_mib']:.0f}",
        f"{requests['cpu_us_per_request']:.0f}",
        f"{requests['ttft_p50_ms']:.1f} / {requests['ttft_p99_ms']:.1f}",
    )
    return "| " + " | ".join(cells) + " |"
