"""Evidence from a load test."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from segue.loadtest.diagnose.evidence import (
    Evidence,
    PoolEvidence,
    Promise,
    RouterEvidence,
    TransferEvidence,
    most_strained,
)
from segue.loadtest.measure.distribution import Distribution
from segue.loadtest.measure.result import Result
from segue.loadtest.measure.slo import Slo
from segue.loadtest.measure.summary import Figures, LegFigures, Summary

_Group = tuple[str, Slo, Figures, LegFigures | None]


def evidence_of_result(result: Result) -> Evidence:
    """Means over the measured requests. A server that doesn't say where the time went leaves little to judge by."""
    summary = result.summary
    total, legs = summary.total, summary.legs
    slo = total.slo
    rate = total.requests_per_s
    refused = total.failures.get("refused", 0) / summary.duration_s if summary.duration_s > 0 else 0.0
    transfer = None
    if legs is not None and legs.transfer_s.count:
        share = legs.transfer_s.count / legs.requests
        transfer = TransferEvidence(legs.transfer_s.mean, rate * share, legs.transfer_bytes_mean, legs.handoff_s.mean)
    return Evidence(
        source=f"load test: {result.title}",
        window_s=summary.duration_s,
        requests_per_s=rate,
        refused_per_s=refused,
        prefill=PoolEvidence(legs.prefill_workers if legs else 0),
        decode=PoolEvidence(
            legs.decode_workers if legs else 0,
            running_requests=rate * legs.decode_s.mean / max(1, legs.decode_workers) if legs else None,
        ),
        router=RouterEvidence(
            queue=_held(summary, lambda _, legs: legs.queue_s if legs else None, lambda slo: slo.ttft_s),
            outside_s=legs.outside_s.p50 if legs else None,
        ),
        transfer=transfer,
        ttft=Promise(total.ttft_s.mean, slo.ttft_s if slo else 0.0) if total.ttft_s.count else None,
        prefill_s=legs.prefill_s.mean if legs else None,
        prefilled_share=1 - legs.paths.get("local", 0) / legs.requests if legs else 1.0,
        decode_itl_s=legs.decode_itl_s.mean if legs else total.itl_s.mean if total.itl_s.count else None,
        cached_share=total.cached_tokens / total.prompt_tokens if total.prompt_tokens else None,
        slo_share=total.goodput_share,
        prefill_part=_held(summary, lambda _, legs: legs.prefill_s if legs else None, lambda slo: slo.ttft_s),
        decode_pace=_held(
            summary, lambda figures, legs: legs.decode_itl_s if legs else figures.itl_s, lambda slo: slo.itl_s
        ),
    )


def _held(
    summary: Summary,
    seen: Callable[[Figures, LegFigures | None], Distribution | None],
    bound_s: Callable[[Slo], float],
) -> Promise | None:
    """The mean of the class that is worst off, against its SLO."""
    groups = ((name, slo, seen(figures, legs)) for name, slo, figures, legs in _groups(summary))
    return most_strained(
        Promise(values.mean, bound_s(slo), name) for name, slo, values in groups if values is not None and values.count
    )


def _groups(summary: Summary) -> Iterator[_Group]:
    """The classes; a file of one of them has its figures in the total alone."""
    if summary.total.slo is not None:
        yield "", summary.total.slo, summary.total, summary.legs
    for name, figures in summary.by_class.items():
        if figures.slo is not None:
            yield name, figures.slo, figures, summary.legs_by_class.get(name)
