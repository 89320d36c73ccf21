"""The report: one HTML file that needs nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources

from jinja2 import Environment, StrictUndefined

from segue.loadtest.measure.distribution import Distribution
from segue.loadtest.measure.result import Result
from segue.loadtest.report.plots import figures


@dataclass(frozen=True, slots=True)
class _Tile:
    value: str
    words: str
    mood: str = ""


def html_report(result: Result) -> str:
    """The page's text. What servers and users wrote into the result is escaped."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["ms"] = _ms
    template = environment.from_string(
        resources.files("segue.loadtest.report").joinpath("page.html").read_text(encoding="utf-8")
    )
    summary = result.summary
    return template.render(
        result=result,
        summary=summary,
        total=summary.total,
        started=datetime.fromtimestamp(result.started_unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        tiles=_tiles(result),
        latencies=_latencies(result),
        figures=figures(result),
        classes=list((summary.by_class or {"": summary.total}).items()),
        legs=_legs(result),
    )


def _tiles(result: Result) -> list[_Tile]:
    total = result.summary.total
    failed = total.requests - total.answered
    share = 100 * total.goodput_share
    return [
        _Tile(f"{share:.1f} %", "of requests met their SLO", "good" if share >= 99 else "bad" if share < 90 else ""),
        _Tile(_ms(total.ttft_s.p50), "TTFT p50, ms"),
        _Tile(_ms(total.ttft_s.p99), "TTFT p99, ms"),
        _Tile(_ms(total.itl_s.p50), "ITL p50, ms"),
        _Tile(f"{total.requests_per_s:,.2f}", "requests/s answered"),
        _Tile(f"{total.output_tokens_per_s:,.0f}", "output tokens/s"),
        _Tile(f"{failed:,}", f"failed of {total.requests:,} requests", "bad" if failed else "good"),
    ]


def _latencies(result: Result) -> list[tuple[str, Distribution]]:
    total = result.summary.total
    return [
        ("TTFT", total.ttft_s),
        ("TTFT from actual sending", total.sent_ttft_s),
        ("ITL, mean of a request", total.itl_s),
        ("gap between chunks", total.gap_s),
        ("end to end", total.end_to_end_s),
    ]


def _legs(result: Result) -> list[tuple[str, Distribution]]:
    legs = result.summary.legs
    if legs is None:
        return []
    return [
        ("queue, before a worker", legs.queue_s),
        ("prefill, its queue included", legs.prefill_s),
        ("hand-off: token 1 to decode's first", legs.handoff_s),
        ("of that, KV transfer", legs.transfer_s),
        ("decode's steps, mean of a request", legs.decode_itl_s),
        ("outside the router, of TTFT", legs.outside_s),
    ]


def _ms(value_s: float) -> str:
    value = 1000 * value_s
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"
