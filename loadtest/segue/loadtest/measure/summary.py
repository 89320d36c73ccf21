"""A whole load test in figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from segue.loadtest.measure.distribution import Distribution
from segue.loadtest.measure.outcome import Legs, Outcome
from segue.loadtest.measure.slo import Slo, SloTable


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one group of requests. Latencies are of answered requests and count from the intended send time.

    ``itl_s``: mean per request. ``gap_s``: all times between chunks with tokens. Where a chunk carries several tokens
    (``tokens_per_chunk``), ``gap_s`` is what a reader sees and ``itl_s`` the pace.
    """

    requests: int
    answered: int
    good: int
    failures: Mapping[str, int]
    ttft_s: Distribution
    sent_ttft_s: Distribution  # From the actual send time: what coordinated omission would show.
    itl_s: Distribution
    gap_s: Distribution
    end_to_end_s: Distribution
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    tokens_per_chunk: float
    requests_per_s: float
    good_per_s: float
    output_tokens_per_s: float
    slo: Slo | None  # None for several classes together.

    @property
    def goodput_share(self) -> float:
        """Of all requests, those that met their SLO; 1 of none."""
        return self.good / self.requests if self.requests else 1.0


@dataclass(frozen=True, slots=True)
class LegFigures:
    """Where a Segue router says the time went, over the answered requests."""

    requests: int
    paths: Mapping[str, int]
    transports: Mapping[str, int]
    queue_s: Distribution
    prefill_s: Distribution
    handoff_s: Distribution
    transfer_s: Distribution
    transfer_bytes_mean: float
    decode_s: Distribution  # Decode's first token to the last one.
    decode_itl_s: Distribution  # Of a request in the mean; the hand-off is not in it.
    prefill_workers: int  # Different ones that took requests.
    decode_workers: int
    outside_s: Distribution  # TTFT at the client, from sending, less TTFT at the router: HTTP, network and both ends.

    @property
    def simulated(self) -> bool:
        """Whether the engines computed nothing, as simulated ones say by their transport."""
        return "simulated" in self.transports


@dataclass(frozen=True, slots=True)
class Summary:
    """``duration_s`` runs from the first measured request's intended time to the end of the last."""

    duration_s: float
    warm_up_requests: int
    total: Figures
    by_class: Mapping[str, Figures]
    legs: LegFigures | None
    uncounted: int  # Answers for which a chunk was taken for a token, since the server sent no usage.
    details: Mapping[str, str]  # Of each kind of failure, what the first one said.
    legs_by_class: Mapping[str, LegFigures] = field(default_factory=dict)  # Of those that were told.


def summarize(outcomes: Sequence[Outcome], slos: SloTable, warm_up_requests: int = 0) -> Summary:
    """``outcomes`` without those of the warm-up, whose number is only noted."""
    start_s = min((one.intended_s for one in outcomes), default=0.0)
    duration_s = max((one.end_s for one in outcomes), default=0.0) - start_s
    classes = sorted({one.slo_class for one in outcomes})
    details: dict[str, str] = {}
    for one in outcomes:
        if one.failure is not None:
            details.setdefault(one.failure.value, one.detail)
    return Summary(
        duration_s,
        warm_up_requests,
        _figures(outcomes, slos, duration_s, slos.of(classes[0]) if len(classes) == 1 else None),
        {
            name: _figures([one for one in outcomes if one.slo_class == name], slos, duration_s, slos.of(name))
            for name in classes
            if len(classes) > 1
        },
        _legs(outcomes),
        sum(one.ok and not one.counted for one in outcomes),
        details,
        {
            name: legs
            for name in classes
            if len(classes) > 1 and (legs := _legs([one for one in outcomes if one.slo_class == name])) is not None
        },
    )


def _figures(outcomes: Sequence[Outcome], slos: SloTable, duration_s: float, slo: Slo | None) -> Figures:
    answered = [one for one in outcomes if one.ok]
    good = sum(slos.met(one) for one in answered)
    output_tokens = sum(one.output_tokens for one in answered)
    chunks = sum(one.chunks for one in answered)
    per_s = 1 / duration_s if duration_s > 0 else 0.0
    gaps = [np.frombuffer(one.gaps_s, np.float64) for one in answered if one.gaps_s]
    return Figures(
        requests=len(outcomes),
        answered=len(answered),
        good=good,
        failures=dict(Counter(one.failure.value for one in outcomes if one.failure is not None)),
        ttft_s=Distribution.of([one.ttft_s for one in answered]),
        sent_ttft_s=Distribution.of([one.sent_ttft_s for one in answered]),
        itl_s=Distribution.of([itl_s for one in answered if (itl_s := one.itl_s) is not None]),
        gap_s=Distribution.of(np.concatenate(gaps) if gaps else []),
        end_to_end_s=Distribution.of([one.end_to_end_s for one in answered]),
        prompt_tokens=sum(one.prompt_tokens for one in answered),
        cached_tokens=sum(one.cached_tokens for one in answered),
        output_tokens=output_tokens,
        tokens_per_chunk=output_tokens / chunks if chunks else 0.0,
        requests_per_s=len(answered) * per_s,
        good_per_s=good * per_s,
        output_tokens_per_s=output_tokens * per_s,
        slo=slo,
    )


def _legs(outcomes: Sequence[Outcome]) -> LegFigures | None:
    told = [(one, one.legs) for one in outcomes if one.ok and one.legs is not None]
    if not told:
        return None
    moved = [legs for _, legs in told if legs.transfer_bytes]
    return LegFigures(
        requests=len(told),
        paths=dict(Counter(legs.path for _, legs in told)),
        transports=dict(Counter(legs.transport for legs in moved)),
        queue_s=Distribution.of([legs.queue_s for _, legs in told]),
        prefill_s=Distribution.of([legs.prefill_s for _, legs in told]),
        handoff_s=Distribution.of([legs.handoff_s for legs in moved]),
        transfer_s=Distribution.of([legs.transfer_s for legs in moved]),
        transfer_bytes_mean=float(np.mean([legs.transfer_bytes for legs in moved])) if moved else 0.0,
        decode_s=Distribution.of([legs.decode_s for _, legs in told]),
        decode_itl_s=Distribution.of(
            [
                legs.decode_s / gaps
                for one, legs in told
                if legs.decode_s and (gaps := one.output_tokens - _before_decode(legs)) > 0
            ]
        ),
        prefill_workers=len({legs.prefill_worker for _, legs in told} - {""}),
        decode_workers=len({legs.decode_worker for _, legs in told} - {""}),
        outside_s=Distribution.of([one.sent_ttft_s - legs.ttft_s for one, legs in told]),
    )


def _before_decode(legs: Legs) -> int:
    """How many tokens come up to the one with which decode's time begins: that is token 1 where decode computes the
    prompt, or samples that token again; else token 1 is prefill's, and decode's first one, which ends the hand-off, the
    second."""
    return 1 if legs.path in ("local", "exact") else 2
