"""A fleet run as a picture: memory of each process, and what the streams did, over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any


def plot_fleet(samples: Sequence[Mapping[str, Any]], counts: Sequence[Mapping[str, Any]], path: Path) -> None:
    """``samples``: at_s, name, rss_mib, cpu_s of each process; ``counts``: at_s, open, tokens of the client."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, (memory, streams, pace) = plt.subplots(3, 1, figsize=(9, 9), sharex=True)
    for name in dict.fromkeys(sample["name"] for sample in samples):
        own = [sample for sample in samples if sample["name"] == name]
        memory.plot([one["at_s"] for one in own], [one["rss_mib"] for one in own], label=name)
    memory.set_ylabel("resident memory, MiB")
    memory.set_ylim(bottom=0)
    memory.legend(loc="upper left", fontsize=8)
    streams.plot([one["at_s"] for one in counts], [one["open"] for one in counts], label="open")
    streams.plot([one["at_s"] for one in counts], [one["complete"] for one in counts], label="complete, in all")
    lost = [one["wrong"] + one["failed"] for one in counts]
    streams.plot([one["at_s"] for one in counts], lost, label="lost or wrong, in all")
    streams.set_ylabel("streams")
    streams.legend(loc="upper left", fontsize=8)
    pairs = list(pairwise(counts))
    pace.plot(
        [later["at_s"] for _, later in pairs],
        [(later["tokens"] - one["tokens"]) / (later["at_s"] - one["at_s"]) for one, later in pairs],
    )
    pace.set_ylabel("tokens/s at the client")
    pace.set_ylim(bottom=0)
    pace.set_xlabel("seconds since the client's start")
    figure.tight_layout()
    figure.savefig(path, dpi=110)
