"""The study as a table and as a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean

from scaling_study.day import DAY_H, Traces
from scaling_study.runs import Result
from scaling_study.scalers import scalers
from scaling_study.statics import best_of_each_size
from scaling_study.study import Report

_PREFILL, _DECODE = "#c8553d", "#1b7f5c"


def markdown(report: Report) -> str:
    """The scalers beside the best split; then the best split of each size."""
    best = [report.best_fixed(seed) for seed in report.settings.all_seeds]
    rows = [(_names(best), best), *((one.name, report.named(one.name)) for one in scalers(report.settings.gpus))]
    heads = "policy", "GPU-hours", "within the SLO", "first token late", "too slow", "good a GPU-hour", "to best split"
    lines = [
        _asked(report),
        "",
        f"| {' | '.join(heads)} |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *(_row(name, results, best) for name, results in rows),
        "",
        "The best split of each size that may have the best, first seed:",
        "",
        "| GPUs | split | within the SLO | good answers a GPU-hour |",
        "|---:|---|---:|---:|",
    ]
    for split in best_of_each_size(report.fixed):
        result = report.of(split.name, report.settings.day.seed)
        if result is not None:
            lines.append(
                f"| {split.total} | {split.prefill}+{split.decode} | {result.attainment:.1%} | "
                f"{result.good_per_gpu_hour:,.0f} |"
            )
    return "\n".join(lines) + "\n"


def _asked(report: Report) -> str:
    day, seeds = report.settings.day, report.settings.seeds
    of = "one seed" if seeds == 1 else f"means of {seeds} seeds, the least and the most in brackets"
    return f"On the mean {day.conversation_mean:g} conversations and {day.code_mean:g} completions a second; {of}:"


def _names(best: Sequence[Result]) -> str:
    names = sorted({one.name.removeprefix("static ") for one in best})
    return f"best static split of each seed ({', '.join(names)})"


def _row(name: str, results: Sequence[Result], best: Sequence[Result]) -> str:
    ratios = [one.good_per_gpu_hour / other.good_per_gpu_hour for one, other in zip(results, best, strict=True)]
    cells = [
        _mean(results, lambda one: one.gpu_hours, ".1f"),
        _mean(results, lambda one: one.attainment, ".1%"),
        _mean(results, lambda one: one.late_first, ".1%"),
        _mean(results, lambda one: one.slow, ".1%"),
        _mean(results, lambda one: one.good_per_gpu_hour, ",.0f"),
        "1" if list(results) == list(best) else f"{fmean(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _mean(results: Sequence[Result], figure: Callable[[Result], float], form: str) -> str:
    return format(fmean(figure(one) for one in results), form)


def plot(report: Report, traces: Traces, file: Path) -> None:
    """The load, each scaler's workers over the first seed's day, and what every one was worth."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    day = report.settings.day
    shown = [one for scaler in scalers(report.settings.gpus) if (one := report.of(scaler.name, day.seed)) is not None]
    heights = [1.0] * (len(shown) + 1) + [2.0]
    figure, axes = pyplot.subplots(
        len(heights), 1, figsize=(9, 2 * sum(heights)), layout="constrained", height_ratios=heights
    )
    rates = {"conversations/s": day.rates("conversation", traces), "code completions/s": day.rates("code", traces)}
    for (label, values), colour in zip(rates.items(), ("#4464ad", "#8a8a8a"), strict=True):
        axes[0].step([index / len(values) * DAY_H for index in range(len(values))], values, color=colour, label=label)
    axes[0].set_ylim(0, 1.4 * max(map(max, rates.values())))  # Room for the names.
    axes[0].legend(frameon=False, loc="upper right", ncols=2)
    for axis, result in zip(axes[1:], shown, strict=False):
        at = [sample.at_s / day.seconds * DAY_H for sample in result.samples]
        pools = [sample.prefill for sample in result.samples], [sample.decode for sample in result.samples]
        axis.stackplot(at, *pools, colors=(_PREFILL, _DECODE), labels=("prefill", "decode"), step="post")
        told = f"{result.name}: {result.gpu_hours:.1f} GPU-hours, {result.attainment:.1%} within the SLO"
        axis.set_title(told, loc="left", fontsize=9)
        axis.set_ylabel("workers")
        axis.set_ylim(0, report.settings.gpus)
    axes[1].legend(frameon=False, loc="upper left", ncols=2)
    for axis in axes[:-1]:
        axis.set_xlim(0, DAY_H)
    axes[-2].set_xlabel("hour of the day")
    first = [one for one in report.results if one.seed == day.seed]
    most = max(one.good_per_gpu_hour for one in first)
    # Of the splits those that are worth looking at, of the scalers every one.
    marked = [one for one in first if one in shown or one.good_per_gpu_hour > 0.8 * most]
    for result in marked:
        fixed = result.name.startswith("static")
        at_, label = (result.gpu_hours, result.good_per_gpu_hour), result.name.removeprefix("static ")
        axes[-1].plot(*at_, "o", color="#8a8a8a" if fixed else "#4464ad", markersize=4)
        axes[-1].annotate(label, at_, xytext=(3, 3), textcoords="offset points", fontsize=7, rotation=30)
    least = min(one.good_per_gpu_hour for one in marked)
    axes[-1].set_ylim(0.97 * least, 1.1 * most)
    axes[-1].margins(x=0.15)
    axes[-1].set_xlabel("GPU-hours")
    axes[-1].set_ylabel("good answers\na GPU-hour")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
