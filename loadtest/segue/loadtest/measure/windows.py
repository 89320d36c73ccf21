"""The course of a load test: figures per stretch of time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segue.loadtest.measure.outcome import Outcome
from segue.loadtest.measure.slo import SloTable


@dataclass(frozen=True, slots=True)
class Window:
    """One stretch. ``good`` and ``failed`` are of the requests that ended in it, TTFTs of those whose first token came
    in it; output tokens are counted when their chunk came."""

    start_s: float
    length_s: float
    sent: int
    ended: int
    failed: int
    refused: int
    good: int
    in_flight: int  # At its end.
    output_tokens: float
    ttft_p50_s: float | None
    ttft_p99_s: float | None
    gap_p50_s: float | None
    gap_p99_s: float | None


def window_length_s(duration_s: float, about: int = 60) -> float:
    """A round length that makes some ``about`` windows of ``duration_s``."""
    wanted_s = max(duration_s / about, 0.1)
    steps = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 60, 120, 300)
    return next((float(step) for step in steps if step >= wanted_s), float(math.ceil(wanted_s / 600) * 600))


def windows(outcomes: Sequence[Outcome], slos: SloTable, length_s: float) -> tuple[Window, ...]:
    """From 0 to the end of the last request, without a gap."""
    if not outcomes:
        return ()
    count = int(max(outcome.end_s for outcome in outcomes) / length_s) + 1

    def per_window(times_s: Sequence[float], weights: Sequence[float] | None = None) -> list[float]:
        places = np.minimum(np.asarray(times_s, np.float64) / length_s, count - 1).astype(np.int64)
        counted: list[float] = np.bincount(places, weights, minlength=count).tolist()
        return counted

    failed = [one for one in outcomes if not one.ok]
    sent = per_window([max(0.0, one.sent_s) for one in outcomes])
    ended = per_window([one.end_s for one in outcomes])
    failures = per_window([one.end_s for one in failed])
    refusals = per_window([one.end_s for one in failed if one.failure == "refused"])
    good = per_window([one.end_s for one in outcomes if slos.met(one)])
    chunk_times, chunk_tokens, gap_times, gaps = _chunks(outcomes)
    tokens = per_window(chunk_times, chunk_tokens)
    first_times = [one.first_s for one in outcomes if one.ok and one.first_s is not None]
    ttfts = [one.ttft_s for one in outcomes if one.ok and one.first_s is not None]
    ttft_percentiles = _percentiles(first_times, ttfts, length_s, count)
    gap_percentiles = _percentiles(gap_times, gaps, length_s, count)
    in_flight = np.cumsum(sent) - np.cumsum(ended)
    return tuple(
        Window(
            place * length_s,
            length_s,
            int(sent[place]),
            int(ended[place]),
            int(failures[place]),
            int(refusals[place]),
            int(good[place]),
            int(in_flight[place]),
            tokens[place],
            *ttft_percentiles[place],
            *gap_percentiles[place],
        )
        for place in range(count)
    )


def _chunks(outcomes: Sequence[Outcome]) -> tuple[list[float], list[float], list[float], list[float]]:
    """Times of all chunks and the tokens in each (the mean, where chunks don't say), times of all gaps and the gaps."""
    times: list[float] = []
    tokens: list[float] = []
    gap_times: list[float] = []
    gaps: list[float] = []
    for one in outcomes:
        if one.first_s is None:
            continue
        arrivals = (one.first_s + np.cumsum([0.0, *one.gaps_s])).tolist()
        times += arrivals
        tokens += [one.output_tokens / len(arrivals)] * len(arrivals)
        gap_times += arrivals[1:]
        gaps += one.gaps_s
    return times, tokens, gap_times, gaps


def _percentiles(
    times_s: Sequence[float], values: Sequence[float], length_s: float, count: int
) -> list[tuple[float | None, float | None]]:
    """p50 and p99 of the values in each window; None where there is none."""
    found: list[tuple[float | None, float | None]] = [(None, None)] * count
    if not values:
        return found
    places = np.minimum(np.asarray(times_s) / length_s, count - 1).astype(np.int64)
    order = np.argsort(places, kind="stable")
    data = np.asarray(values)[order]
    bounds = np.searchsorted(places[order], np.arange(count + 1))
    for place in range(count):
        part = data[bounds[place] : bounds[place + 1]]
        if part.size:
            p50, p99 = np.percentile(part, (50, 99)).tolist()
            found[place] = (p50, p99)
    return found
