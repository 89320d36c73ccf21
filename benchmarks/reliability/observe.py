"""Memory and descriptors of processes over time. Linux."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment; ``at_s`` counts from the soak's start."""

    at_s: float
    name: str
    pid: int
    rss_mib: float
    descriptors: int


def sample(pids: Mapping[str, int], at_s: float) -> list[Sample]:
    """One sample of each process that still lives."""
    samples = []
    for name, pid in pids.items():
        try:
            pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            descriptors = len(os.listdir(f"/proc/{pid}/fd"))
        except (OSError, IndexError):  # It died in between.
            continue
        samples.append(Sample(round(at_s, 1), name, pid, pages * _PAGE_BYTES / 2**20, descriptors))
    return samples


@dataclass(frozen=True, slots=True)
class Trend:
    """One life of a process, from its warm-up's end on: means of its first and last quarter."""

    name: str
    pid: int
    seconds: float
    rss_mib: tuple[float, float]
    descriptors: tuple[float, float]


def trends(samples: Sequence[Sample], warm_up_s: float, at_least_s: float) -> list[Trend]:
    """Of each life that was long enough, longest first."""
    lives: dict[tuple[str, int], list[Sample]] = {}
    for one in samples:
        lives.setdefault((one.name, one.pid), []).append(one)
    found = []
    for (name, pid), life in lives.items():
        warm = [one for one in life if one.at_s >= life[0].at_s + warm_up_s]
        if not warm or warm[-1].at_s - warm[0].at_s < at_least_s:
            continue
        quarter = max(1, len(warm) // 4)
        first, last = warm[:quarter], warm[-quarter:]
        found.append(
            Trend(
                name=name,
                pid=pid,
                seconds=round(warm[-1].at_s - warm[0].at_s, 1),
                rss_mib=(_mean([one.rss_mib for one in first]), _mean([one.rss_mib for one in last])),
                descriptors=(_mean([one.descriptors for one in first]), _mean([one.descriptors for one in last])),
            )
        )
    return sorted(found, key=lambda trend: -trend.seconds)


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 1)
