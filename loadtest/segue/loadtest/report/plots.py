"""Which plots a result makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from segue.loadtest.measure.result import Result
from segue.loadtest.report.svg import Axes, Line, plot

# What is faster is drawn here: chunks that came in one packet have gaps of nothing, and a logarithm has no zero.
_MIN_MS = 0.1


@dataclass(frozen=True, slots=True)
class Figure:
    """One plot with its heading and what it shows."""

    title: str
    note: str
    svg: str


def figures(result: Result) -> list[Figure]:
    """In the order of the page."""
    return [
        _ttft_over_time(result),
        _gaps_over_time(result),
        _throughput(result),
        _requests(result),
        _shares(result),
        _gap_shares(result),
    ]


def _ttft_over_time(result: Result) -> Figure:
    course = result.windows
    bound_s = result.summary.total.slo.ttft_s if result.summary.total.slo else 0.0
    lines = [
        Line("p50", [(one.start_s, _ms(one.ttft_p50_s)) for one in course], "blue"),
        Line("p99", [(one.start_s, _ms(one.ttft_p99_s)) for one in course], "orange"),
    ]
    axes = Axes("seconds", "TTFT, ms", levels=_level(bound_s), shade_to=result.warm_up_s or None)
    return Figure("Time to first token", "From when a request was to be sent to its first token.", plot(lines, axes))


def _gaps_over_time(result: Result) -> Figure:
    course = result.windows
    bound_s = result.summary.total.slo.itl_s if result.summary.total.slo else 0.0
    lines = [
        Line("p50", [(one.start_s, _ms(one.gap_p50_s)) for one in course], "blue"),
        Line("p99", [(one.start_s, _ms(one.gap_p99_s)) for one in course], "orange"),
    ]
    axes = Axes("seconds", "gap, ms", levels=_level(bound_s), shade_to=result.warm_up_s or None)
    return Figure(
        "Time between chunks",
        f"What a reader sees; {result.summary.total.tokens_per_chunk:.2f} tokens came in a chunk.",
        plot(lines, axes),
    )


def _throughput(result: Result) -> Figure:
    points = [(one.start_s, one.output_tokens / one.length_s) for one in result.windows]
    axes = Axes("seconds", "tokens/s", shade_to=result.warm_up_s or None)
    return Figure("Output tokens", "As they came.", plot([Line("output tokens/s", points, "green", True)], axes))


def _requests(result: Result) -> Figure:
    course = result.windows
    lines = [
        Line("sent", [(one.start_s, one.sent / one.length_s) for one in course], "blue"),
        Line("met their SLO", [(one.start_s, one.good / one.length_s) for one in course], "green"),
        Line("in flight", [(one.start_s, float(one.in_flight)) for one in course], "grey"),
    ]
    if any(one.failed for one in course):
        lines.append(Line("failed", [(one.start_s, one.failed / one.length_s) for one in course], "red"))
    axes = Axes("seconds", "requests/s; in flight", shade_to=result.warm_up_s or None)
    return Figure("Requests", "Per second; those in flight at each moment as a number.", plot(lines, axes))


def _shares(result: Result) -> Figure:
    slo = result.summary.total.slo
    lines = [
        Line("TTFT", _cumulative(result.samples.ttft_s), "blue"),
        Line("end to end", _cumulative(result.samples.end_to_end_s), "grey"),
    ]
    marks = ((1000 * slo.ttft_s, "SLO TTFT"),) if slo and slo.ttft_s else ()
    axes = Axes("ms, logarithmic", "% of requests", x_log=True, y_max=100, marks=marks)
    return Figure("How many requests were how fast", "The share of requests at or below each time.", plot(lines, axes))


def _gap_shares(result: Result) -> Figure:
    slo = result.summary.total.slo
    lines = [
        Line("mean of a request (ITL)", _cumulative(result.samples.itl_s), "blue"),
        Line("each gap between chunks", _cumulative(result.samples.gap_s), "orange"),
    ]
    marks = ((1000 * slo.itl_s, "SLO ITL"),) if slo and slo.itl_s else ()
    axes = Axes("ms, logarithmic", "% of gaps or requests", x_log=True, y_max=100, marks=marks)
    return Figure("How steady the tokens came", "The share at or below each time.", plot(lines, axes))


def _cumulative(sorted_s: Sequence[float]) -> list[tuple[float, float | None]]:
    count = len(sorted_s)
    return [(max(1000 * value_s, _MIN_MS), 100 * (place + 1) / count) for place, value_s in enumerate(sorted_s)]


def _level(bound_s: float) -> tuple[tuple[float, str], ...]:
    return ((1000 * bound_s, "SLO"),) if bound_s else ()


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else 1000 * value_s
