"""The comparison as a table for people and as JSON for machines."""

from __future__ import annotations

import dataclasses
from typing import Any

from comparison.figures import METRICS, Agreement, Ratio, median_figures
from comparison.results import SEGUE, STOCK, Results
from rich.console import Console
from rich.table import Table

_LABELS = {
    "tokens_per_s": "tokens/s",
    "ttft_p50_ms": "TTFT p50, ms",
    "ttft_p99_ms": "TTFT p99, ms",
    "itl_mean_ms": "ITL mean, ms",
    "itl_p99_ms": "ITL p99, ms",
}
# Above this, others' work on the cores is likely to show in the figures.
_MUCH_OTHER_WORK_CORES = 0.2


def print_report(results: Results, console: Console) -> None:
    """The table of figures and ratios, then the answers in common and what speaks against the figures."""
    console.print(_table(results))
    for concurrency in results.concurrencies():
        console.print(
            f"at {concurrency}: same greedy text from both stacks {_share(results.same_text(concurrency))}; "
            f"from the same stack started again: stock {_share(results.repeated_text(STOCK, concurrency))}, "
            f"segue {_share(results.repeated_text(SEGUE, concurrency))}",
            soft_wrap=True,
        )
    for path, count in sorted(results.paths().items()):
        console.print(f"carried out as ({path}): {count} requests")
    for run in results.runs:
        m = run.measurement
        where = f"{m.stack}, round {m.round}, {m.concurrency} concurrent"
        if m.failures:
            first = next(sample.error for sample in run.samples if sample.error)
            line = f"{where}: {m.failures} of {m.requests} requests failed; the first: {first}"
            console.print(line, style="red", markup=False, soft_wrap=True)
        if m.other_cpu_cores > _MUCH_OTHER_WORK_CORES:
            console.print(f"{where}: other work kept {m.other_cpu_cores:.2f} cores busy", style="yellow")


def as_json(results: Results) -> dict[str, Any]:
    """Everything but the texts: settings, machine, measurements, medians, ratios, answers in common."""
    return {
        "measured_at": results.measured_at,
        "machine": dict(results.machine),
        "settings": dict(results.settings),
        "summary": [_summary(results, concurrency) for concurrency in results.concurrencies()],
        "measurements": [dataclasses.asdict(run.measurement) for run in results.runs],
    }


def _summary(results: Results, concurrency: int) -> dict[str, Any]:
    medians = {
        stack: dataclasses.asdict(median_figures(measurements))
        for stack in (STOCK, SEGUE)
        if (measurements := results.measurements(stack, concurrency))
    }
    return {
        "concurrency": concurrency,
        "median": medians,
        "segue_over_stock": {name: dataclasses.asdict(r) for name, r in results.ratios(concurrency).items()},
        "same_text": dataclasses.asdict(results.same_text(concurrency)),
        "repeated_text": {
            stack: dataclasses.asdict(results.repeated_text(stack, concurrency)) for stack in (STOCK, SEGUE)
        },
    }


def _table(results: Results) -> Table:
    table = Table(title="Segue against the stock stack: medians over rounds, ratios paired by round")
    for heading in ("concurrent", "figure", "stock", "segue", "segue / stock", "lowest to highest"):
        table.add_column(heading, justify="left" if heading == "figure" else "right")
    for concurrency in results.concurrencies():
        medians = {
            stack: median_figures(measurements)
            for stack in (STOCK, SEGUE)
            if (measurements := results.measurements(stack, concurrency))
        }
        ratios = results.ratios(concurrency)
        for name in METRICS:
            values = [f"{getattr(medians[s], name):.1f}" if s in medians else "-" for s in (STOCK, SEGUE)]
            first = str(concurrency) if name == METRICS[0] else ""
            table.add_row(first, _LABELS[name], *values, *_ratio_cells(ratios.get(name)))
        table.add_section()
    return table


def _ratio_cells(ratio: Ratio | None) -> tuple[str, str]:
    if ratio is None:
        return "-", "-"
    return f"{ratio.median:.2f}", f"{ratio.low:.2f} to {ratio.high:.2f}"


def _share(found: Agreement) -> str:
    if not found.compared:
        return "not compared"
    cut = found.same_but_cut_character
    return f"{found.same} of {found.compared}" + (f" (and {cut} but for a character cut off at the end)" if cut else "")
