"""A load test on a terminal: a bar while it runs, a table when it is over."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from segue.loadtest.generator import progress as load
from segue.loadtest.measure.distribution import Distribution
from segue.loadtest.measure.result import Result
from segue.loadtest.measure.summary import Figures
from segue.loadtest.plan import Plan


class LoadDisplay:
    """Follows a load. On a terminal only; elsewhere nothing is shown before the end."""

    def __init__(self, console: Console, plan: Plan) -> None:
        self._requests = plan.max_requests or None
        self._duration_s = plan.pace.max_duration_s or None
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            *([MofNCompleteColumn()] if self._requests else []),
            TimeElapsedColumn(),
            TextColumn("[dim]{task.fields[words]}"),
            console=console,
            disable=not console.is_terminal,
            transient=True,
            # The bar shares a process with the clock of what is measured.
            refresh_per_second=4,
        )
        total = self._requests or self._duration_s
        self._task = self._bar.add_task("preparing", total=total, words="")
        self._last = load.Progress()

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def update(self, now: load.Progress) -> None:
        elapsed_s = now.now_s - self._last.now_s
        tokens_per_s = (now.output_tokens - self._last.output_tokens) / elapsed_s if elapsed_s > 0 else 0.0
        if elapsed_s > 1:
            self._last = now
        words = f"{now.in_flight} in flight, {now.failed} failed, {tokens_per_s:,.0f} tokens/s"
        done = float(now.ended) if self._requests else min(now.now_s, self._duration_s or now.now_s)
        over = self._duration_s is not None and now.now_s > self._duration_s
        self._bar.update(self._task, completed=done, words=words, description="last answers" if over else "load")


def show(console: Console, result: Result) -> None:
    """The figures that a reader wants first."""
    summary, total = result.summary, result.summary.total
    console.print(f"\n[bold]{result.title}[/bold]", highlight=False)
    for name, value in result.setup.items():
        console.print(f"  [dim]{name}[/dim] {value}", highlight=False)
    if summary.legs is not None and summary.legs.simulated:
        console.print("simulated engines: times are a model's, not a machine's", style="yellow", highlight=False)
    console.print(_latencies(total))
    groups = summary.by_class or {"all": total}
    console.print(_goodput(groups))
    console.print(
        f"{summary.duration_s:.1f} s measured, {total.requests_per_s:.2f} requests/s, "
        f"{total.output_tokens_per_s:,.0f} output tokens/s, {total.tokens_per_chunk:.2f} tokens a chunk, "
        f"{total.prompt_tokens:,} prompt tokens ({total.cached_tokens:,} cached)",
        highlight=False,
    )
    if summary.uncounted:
        console.print(f"{summary.uncounted} answers without usage: a chunk was taken for a token", style="yellow")
    for failure, count in total.failures.items():
        console.print(f"[red]{count} {failure}[/red]", end=": ", highlight=False)
        console.print(summary.details.get(failure, ""), markup=False, highlight=False)
    _show_generator(console, result)


def _latencies(total: Figures) -> Table:
    table = Table(title=None, box=None, pad_edge=False, header_style="dim")
    table.add_column("ms")
    for name in ("mean", "p50", "p90", "p95", "p99", "max"):
        table.add_column(name, justify="right")
    rows: dict[str, Distribution] = {
        "TTFT": total.ttft_s,
        "ITL (mean of a request)": total.itl_s,
        "gap between chunks": total.gap_s,
        "end to end": total.end_to_end_s,
    }
    for name, one in rows.items():
        values = (one.mean, one.p50, one.p90, one.p95, one.p99, one.max)
        table.add_row(name, *(f"{1000 * value:,.1f}" if one.count else "-" for value in values))
    return table


def _goodput(groups: Mapping[str, Figures]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("class")
    for name in ("requests", "answered", "met SLO", "good/s", "TTFT p99 ms", "ITL p99 ms"):
        table.add_column(name, justify="right")
    table.add_column("SLO")
    for name, one in groups.items():
        table.add_row(
            name or "-",
            f"{one.requests:,}",
            f"{one.answered:,}",
            f"{100 * one.goodput_share:.1f} %",
            f"{one.good_per_s:.2f}",
            f"{1000 * one.ttft_s.p99:,.0f}",
            f"{1000 * one.itl_s.p99:,.1f}",
            str(one.slo) if one.slo else "by class",
        )
    return table


def _show_generator(console: Console, result: Result) -> None:
    generator = result.generator
    console.print(
        f"[dim]generator: sent {1000 * generator.send_lag_s.p99:.1f} ms late at p99, loop "
        f"{1000 * generator.loop_lag_s.p99:.1f} ms, {100 * generator.cpu_share_max:.0f} % of a core[/dim]",
        highlight=False,
    )
    for problem in generator.problems:
        console.print(f"INVALID: {problem}", style="bold red", markup=False, highlight=False)
