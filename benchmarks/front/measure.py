"""What a front process costs: processor time by the kernel's count, against what clients read meanwhile."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import psutil
from front.client import running_client
from front.counted import Ask


@dataclass(frozen=True, slots=True)
class Load:
    """``streams`` at a time, each with a token every ``cadence_ms``."""

    streams: int
    cadence_ms: float

    def __str__(self) -> str:
        return f"{self.streams}x{self.cadence_ms:g}ms"


@dataclass(frozen=True, slots=True)
class Streaming:
    """All streams under way, none beginning or ending. Latencies in milliseconds."""

    cpu_us_per_token: float
    cores: float
    tokens_per_s: float
    tokens_per_message: float
    itl_p50_ms: float
    itl_p99_ms: float
    rss_mib: float


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests of a few tokens, one after another on each connection."""

    cpu_us_per_request: float
    requests_per_s: float
    ttft_p50_ms: float
    ttft_p99_ms: float


class Front:
    """The process under measurement and what it started; None is no process: clients talk to the back end itself."""

    def __init__(self, pid: int | None) -> None:
        self._pid = pid

    def cpu_s(self) -> float:
        """User and system time of the whole family so far."""
        return sum(sum(process.cpu_times()[:2]) for process in self._family())

    def rss_bytes(self) -> int:
        return sum(process.memory_info().rss for process in self._family())

    def _family(self) -> list[psutil.Process]:
        if self._pid is None:
            return []
        process = psutil.Process(self._pid)
        return [process, *process.children(recursive=True)]


def measure_streaming(front: Front, ask: Ask, seconds: float) -> Streaming:
    with running_client(ask) as client:
        client.wait_begun(ask.streams)
        time.sleep(0.5)  # Begin with all of them in step.
        used_s, tokens, at_s = front.cpu_s(), client.counters.read()[0], time.monotonic()
        time.sleep(seconds)
        used_s, tokens = front.cpu_s() - used_s, client.counters.read()[0] - tokens
        took_s = time.monotonic() - at_s
        rss_bytes = front.rss_bytes()
        result = client.end()
    gaps_ms = [1e3 * gap for gap in result["gaps_s"]]
    return Streaming(
        cpu_us_per_token=1e6 * used_s / tokens,
        cores=used_s / took_s,
        tokens_per_s=tokens / took_s,
        tokens_per_message=result["tokens"] / result["messages"],
        itl_p50_ms=percentile(gaps_ms, 50),
        itl_p99_ms=percentile(gaps_ms, 99),
        rss_mib=rss_bytes / 2**20,
    )


def measure_requests(front: Front, ask: Ask, seconds: float) -> Requests:
    with running_client(ask) as client:
        client.wait_begun(2 * ask.streams)
        used_s, done, at_s = front.cpu_s(), client.counters.read()[2], time.monotonic()
        time.sleep(seconds)
        used_s, done = front.cpu_s() - used_s, client.counters.read()[2] - done
        took_s = time.monotonic() - at_s
        result = client.end()
    ttfts_ms = [1e3 * ttft for ttft in result["ttft_s"][2 * ask.streams :]]
    return Requests(1e6 * used_s / done, done / took_s, percentile(ttfts_ms, 50), percentile(ttfts_ms, 99))


def percentile(values: Sequence[float], percent: float) -> float:
    """The nearest rank; 0 of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))] if ordered else 0.0


def median_of(rounds: Sequence[Streaming] | Sequence[Requests]) -> dict[str, Any]:
    """Field by field, with the lowest and the highest of the first field, which is the cost."""
    columns = [asdict(one) for one in rounds]
    merged: dict[str, Any] = {name: statistics.median(one[name] for one in columns) for name in columns[0]}
    cost = next(iter(columns[0]))
    merged["lowest"], merged["highest"] = min(one[cost] for one in columns), max(one[cost] for one in columns)
    return merged
