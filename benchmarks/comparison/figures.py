"""From samples to figures, and from two stacks' figures to their ratios. Pure."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from comparison.load import Load, Sample


@dataclass(frozen=True, slots=True)
class Figures:
    """What one stack gave at one concurrency in one round."""

    tokens_per_s: float  # output tokens of all requests over the loop's wall time
    ttft_p50_ms: float  # request sent to first chunk with a choice
    ttft_p99_ms: float
    itl_mean_ms: float  # per request (last chunk - first chunk) / (output tokens - 1); mean over requests
    itl_p99_ms: float  # of the gaps between one request's chunks, over all requests


METRICS = tuple(field.name for field in dataclasses.fields(Figures))


@dataclass(frozen=True, slots=True)
class Measurement:
    """One stack at one concurrency in one round, with what is needed to judge the figures."""

    stack: str
    round: int
    concurrency: int
    figures: Figures
    requests: int
    failures: int
    prompt_tokens: int
    output_tokens: int
    chunks: int  # fewer than output_tokens: the stack put several tokens into one chunk
    wall_s: float
    paths: Mapping[str, int]  # requests by the way the stack says it carried them out
    other_cpu_cores: float  # cores kept busy, on average, by processes outside this benchmark


@dataclass(frozen=True, slots=True)
class Ratio:
    """Segue's figure over the stock one's, paired round by round."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How many answers to the same prompts two sides have in common, to the last character."""

    compared: int
    same: int
    # Not the same, but only in U+FFFD at the end. An answer cut off inside a character leaves bytes over: a tokenizer
    # decodes them to U+FFFD, vLLM leaves them out. Kept apart because the texts alone can't prove the tokens equal.
    same_but_cut_character: int


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least ``percent`` of 100 of the values do not exceed (nearest rank).

    Raises ``ValueError`` when there are no values.
    """
    if not values:
        raise ValueError("no values to take a percentile of")
    rank = math.ceil(percent / 100 * len(values))
    return sorted(values)[max(rank, 1) - 1]


def figures(load: Load) -> Figures:
    """The figures of one closed loop. Raises ``ValueError`` when no request of it was answered."""
    good = [sample for sample in load.samples if sample.error is None]
    if not good:
        first = load.samples[0].error if load.samples else "no request was sent"
        raise ValueError(f"none of {len(load.samples)} requests was answered; the first: {first}")
    ttfts_s = [sample.chunk_times_s[0] for sample in good]
    per_token_s = [_itl_s(sample) for sample in good if sample.output_tokens > 1]
    gaps_s = [
        later - earlier
        for sample in good
        for earlier, later in zip(sample.chunk_times_s, sample.chunk_times_s[1:], strict=False)
    ]
    return Figures(
        tokens_per_s=sum(sample.output_tokens for sample in good) / load.wall_s,
        ttft_p50_ms=1000 * percentile(ttfts_s, 50),
        ttft_p99_ms=1000 * percentile(ttfts_s, 99),
        itl_mean_ms=1000 * statistics.fmean(per_token_s or [0.0]),
        itl_p99_ms=1000 * percentile(gaps_s or [0.0], 99),
    )


def _itl_s(sample: Sample) -> float:
    return (sample.chunk_times_s[-1] - sample.chunk_times_s[0]) / (sample.output_tokens - 1)


def measurement(stack: str, round_: int, concurrency: int, load: Load, other_cpu_cores: float) -> Measurement:
    """``load`` as a measurement. Raises ``ValueError`` when no request of it was answered."""
    return Measurement(
        stack=stack,
        round=round_,
        concurrency=concurrency,
        figures=figures(load),
        requests=len(load.samples),
        failures=sum(sample.error is not None for sample in load.samples),
        prompt_tokens=sum(sample.prompt_tokens for sample in load.samples),
        output_tokens=sum(sample.output_tokens for sample in load.samples),
        chunks=sum(len(sample.chunk_times_s) for sample in load.samples),
        wall_s=load.wall_s,
        paths=dict(Counter(sample.path for sample in load.samples if sample.path)),
        other_cpu_cores=other_cpu_cores,
    )


def median_figures(measurements: Sequence[Measurement]) -> Figures:
    """Each figure's median over the given rounds."""
    return Figures(**{name: statistics.median(getattr(m.figures, name) for m in measurements) for name in METRICS})


def paired_ratios(stock: Sequence[Measurement], segue: Sequence[Measurement]) -> dict[str, Ratio]:
    """Per metric, Segue over stock within each round.

    Rounds that lack one of the two, or whose stock figure is 0, are left out; a metric with no round left
    is absent.
    """
    stock_by_round = {m.round: m.figures for m in stock}
    ratios: dict[str, Ratio] = {}
    for name in METRICS:
        values = [
            getattr(m.figures, name) / base
            for m in segue
            if m.round in stock_by_round and (base := getattr(stock_by_round[m.round], name)) > 0
        ]
        if values:
            ratios[name] = Ratio(statistics.median(values), min(values), max(values))
    return ratios


def agreement(ours: Sequence[Sample], theirs: Sequence[Sample]) -> Agreement:
    """Compare the texts of the prompts that both sides answered without an error."""
    texts = {sample.prompt: sample.text for sample in theirs if sample.error is None}
    pairs = [(s.text, texts[s.prompt]) for s in ours if s.error is None and s.prompt in texts]
    same = sum(a == b for a, b in pairs)
    alike = sum(a.rstrip("\ufffd") == b.rstrip("\ufffd") for a, b in pairs)
    return Agreement(compared=len(pairs), same=same, same_but_cut_character=alike - same)
