"""What outcomes say of a cluster: goodput, refusals, recovery. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from reliability.client import Outcome


@dataclass(frozen=True, slots=True)
class Slo:
    """A request counts if its first token came by ``ttft_s`` and its tokens came ``itl_s`` apart in the mean."""

    ttft_s: float
    itl_s: float
    output_tokens: int

    def met(self, outcome: Outcome) -> bool:
        if not outcome.answered or outcome.first_s is None:
            return False
        itl_s = (outcome.end_s - outcome.first_s) / max(1, (outcome.tokens or self.output_tokens) - 1)
        return outcome.first_s - outcome.sent_s <= self.ttft_s and itl_s <= self.itl_s


def goodput_per_s(outcomes: Sequence[Outcome], slo: Slo, start_s: float, end_s: float) -> float:
    """Requests finished between the two times that met the SLO, per second."""
    good = sum(1 for outcome in outcomes if start_s <= outcome.end_s < end_s and slo.met(outcome))
    return good / (end_s - start_s)


def last_refusal_s(outcomes: Sequence[Outcome], since_s: float) -> float:
    """How long after ``since_s`` somebody was refused for the last time; 0 if nobody was."""
    return max((one.sent_s - since_s for one in outcomes if one.refused and one.sent_s >= since_s), default=0.0)


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent are at or below; NaN of none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(percent / 100 * len(ordered)) - 1)]


@dataclass(frozen=True, slots=True)
class Second:
    """What became of the requests sent within one second."""

    sent: int
    met_slo: int
    refused: int
    ttft_p50_s: float


def by_second(outcomes: Sequence[Outcome], slo: Slo, start_s: float, end_s: float) -> list[Second]:
    seconds = []
    for number in range(max(0, math.floor(end_s - start_s + 1e-9))):
        begin_s = start_s + number
        sent = [outcome for outcome in outcomes if begin_s <= outcome.sent_s < begin_s + 1]
        ttfts = [outcome.first_s - outcome.sent_s for outcome in sent if outcome.first_s is not None]
        seconds.append(
            Second(
                sent=len(sent),
                met_slo=sum(map(slo.met, sent)),
                refused=sum(outcome.refused for outcome in sent),
                ttft_p50_s=percentile(ttfts, 50),
            )
        )
    return seconds


def summary(outcomes: Sequence[Outcome], slo: Slo, start_s: float, end_s: float) -> dict[str, Any]:
    """Figures of the requests sent between the two times, and the goodput in that time."""
    sent = [outcome for outcome in outcomes if start_s <= outcome.sent_s < end_s]
    answered = [outcome for outcome in sent if outcome.answered]
    refused = [outcome for outcome in sent if outcome.refused]
    others = [outcome for outcome in sent if not outcome.answered and not outcome.refused]
    refusal_ms = [1000 * (outcome.end_s - outcome.sent_s) for outcome in refused]
    ttft_ms = [1000 * (outcome.first_s - outcome.sent_s) for outcome in answered if outcome.first_s is not None]
    return {
        "seconds": end_s - start_s,
        "sent": len(sent),
        "answered": len(answered),
        "met_slo": sum(map(slo.met, sent)),
        "refused": len(refused),
        "refused_without_retry_after": sum(outcome.retry_after_s is None for outcome in refused),
        "other_errors": len(others),
        "first_other_errors": sorted({f"{outcome.status} {outcome.error}" for outcome in others})[:5],
        "recomputed": sum(outcome.path == "recomputed" for outcome in answered),
        "goodput_per_s": goodput_per_s(outcomes, slo, start_s, end_s),
        "refusal_ms": {name: percentile(refusal_ms, p) for name, p in (("p50", 50), ("p99", 99), ("max", 100))},
        "refused_within_50_ms": sum(one <= 50 for one in refusal_ms) / len(refusal_ms) if refusal_ms else math.nan,
        # A client that is late itself is on a machine too busy to measure milliseconds on.
        "sent_late_ms": {
            name: percentile([1000 * one.late_s for one in sent], p) for name, p in (("p50", 50), ("p99", 99))
        },
        "ttft_ms": {name: percentile(ttft_ms, p) for name, p in (("p50", 50), ("p99", 99))},
    }


def seconds_json(seconds: Sequence[Second]) -> list[dict[str, Any]]:
    return [asdict(second) for second in seconds]
