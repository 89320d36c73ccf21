"""The study as a table and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from scaling_study.traffic import DAY_H, Day

_PREFILL, _DECODE = "#c8553d", "#1b7f5c"


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """The scalers, and the static splits beside the best of them."""
    statics = [result for result in results if result["name"].startswith("static")]
    best = sorted(statics, key=lambda result: -result["good_per_gpu_hour"])[:3]
    rows = [*sorted(best, key=lambda result: result["name"]), *(one for one in results if one not in statics)]
    lines = [
        "| policy | GPU-hours | within the SLO | first token late | too slow | good answers a GPU-hour |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {one['name']} | {one['gpu_hours']:.1f} | {one['attainment']:.1%} | {one['late_first']:.1%} | "
        f"{one['slow']:.1%} | {one['good_per_gpu_hour']:,.0f} |"
        for one in rows
    ]
    return "\n".join(lines) + "\n"


def plot(results: Sequence[Mapping[str, Any]], day: Day, file: Path) -> None:
    """The load, and each scaler's workers over the day."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    scalers = [result for result in results if not result["name"].startswith("static")]
    figure, axes = pyplot.subplots(
        len(scalers) + 1, 1, figsize=(9, 2 * (len(scalers) + 1)), sharex=True, layout="constrained"
    )
    hours = [index * DAY_H / 200 for index in range(201)]
    for kind, colour in (("conversation", "#4464ad"), ("code", "#8a8a8a")):
        label = "conversations/s" if kind == "conversation" else "code completions/s"
        rates = [day.rates(hour / DAY_H * day.seconds)[kind] for hour in hours]
        axes[0].plot(hours, rates, color=colour, label=label)
    axes[0].legend(frameon=False, loc="upper left")
    for axis, result in zip(axes[1:], scalers, strict=True):
        at = [sample["at_s"] / day.seconds * DAY_H for sample in result["samples"]]
        prefill = [sample["prefill"] for sample in result["samples"]]
        decode = [sample["decode"] for sample in result["samples"]]
        axis.stackplot(at, prefill, decode, colors=(_PREFILL, _DECODE), labels=("prefill", "decode"), step="post")
        told = f"{result['name']}: {result['gpu_hours']:.0f} GPU-hours, {result['attainment']:.0%} within the SLO"
        axis.set_title(told, loc="left", fontsize=9)
        axis.set_ylabel("workers")
    axes[1].legend(frameon=False, loc="upper left", ncols=2)
    axes[-1].set_xlabel("hour of the day")
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)
