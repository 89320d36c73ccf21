"""Plots of the reliability benchmarks. Needs matplotlib (the `bench` extra)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_GOOD, _REFUSED, _OFFERED = "#1b7f5c", "#c8553d", "#8a8a8a"


def plot_overload(report: Mapping[str, Any], file: Path) -> None:
    """Offered, refused and answered within the SLO, second by second."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    seconds: Sequence[Mapping[str, Any]] = report["by_second"]
    at = range(len(seconds))
    figure, (above, below) = pyplot.subplots(2, 1, figsize=(8, 5), sharex=True, layout="constrained")
    above.step(at, [one["sent"] for one in seconds], where="post", color=_OFFERED, label="offered")
    above.step(at, [one["refused"] for one in seconds], where="post", color=_REFUSED, label="refused (429)")
    above.set_ylabel("requests/s")
    above.legend(loc="upper right", frameon=False)
    below.step(at, report["goodput_by_second"], where="post", color=_GOOD, label="goodput")
    below.axhline(report["peak"]["goodput_per_s"], color=_OFFERED, linestyle="--", label="peak")
    below.set_ylim(bottom=0)
    below.set_ylabel("answers within the SLO/s")
    below.set_xlabel("seconds")
    below.legend(loc="lower right", frameon=False)
    factor = report["settings"]["factor"]
    figure.suptitle(f"{factor:g} times the peak offered, then half of it (goodput kept: {report['goodput_ratio']:.2f})")
    _save(figure, file)


def _save(figure: Any, file: Path) -> None:
    from matplotlib import pyplot

    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def plot_soak(report: Mapping[str, Any], file: Path) -> None:
    """Memory and descriptors of every process, answers a second, and the faults."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, (rss, descriptors, answers) = pyplot.subplots(3, 1, figsize=(9, 8), sharex=True, layout="constrained")
    names = sorted({one["name"] for one in report["samples"]})
    colours = {name: f"C{number}" for number, name in enumerate(names)}
    for axes, what, label in ((rss, "rss_mib", "resident memory, MiB"), (descriptors, "descriptors", "descriptors")):
        for pid in sorted({one["pid"] for one in report["samples"]}):
            life = [one for one in report["samples"] if one["pid"] == pid]
            axes.plot(
                [one["at_s"] / 60 for one in life], [one[what] for one in life], color=colours[life[0]["name"]], lw=1
            )
        axes.set_ylim(bottom=0)
        axes.set_ylabel(label)
    for name in names:
        rss.plot([], [], color=colours[name], label=name)
    rss.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    bins = range(0, int(max(report["answers_s"], default=0)) + 10, 10)
    counts = [sum(1 for at_s in report["answers_s"] if low <= at_s < low + 10) / 10 for low in bins]
    answers.step([low / 60 for low in bins], counts, where="post", color=_GOOD)
    for at_s, kind, _ in report["faults"]:
        answers.axvline(at_s / 60, color=_REFUSED if "kill" in kind else _OFFERED, lw=0.4)
    answers.set_ylabel("answers per second")
    answers.set_xlabel("minutes (lines: faults; red: kill -9)")
    zero = ", ".join(f"{count} {kind}" for kind, count in report["must_be_zero"].items())
    figure.suptitle(f"{report['requests']} requests, {len(report['faults'])} faults: {zero}")
    _save(figure, file)
