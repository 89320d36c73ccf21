"""Which part of a cluster holds it back. A pure function over the evidence.

Each part has a *pressure*: the strongest of several signs, each scaled so that 1 means "this is the bottleneck". Signs
that aren't known count as nothing. The part with the highest pressure of 1 or more is the verdict; without one the
cluster is not bound, and below a half everywhere it is underused.

Little's law gives the number of requests in a station from their rate and the time they stay: no worker is asked.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from segue.loadtest.diagnose.advice import decode_advice, prefill_advice, router_advice, transfer_advice
from segue.loadtest.diagnose.evidence import Evidence, PoolEvidence, Promise, RouterEvidence

# From here on a queue forms that does not go away by itself.
FULL = 0.9
# A wait of this many requests at each worker is a queue, not chance.
_WAITING = 1.0
# An event loop this late delays tokens visibly.
_LAG_S = 0.05
_NEARLY = 0.8
_UNDERUSED = 0.5
# A sign that is worth saying, but not the cluster's to mend.
_OTHERS_FAULT = 0.9


class Bound(StrEnum):
    """What holds the cluster back."""

    PREFILL = "prefill-bound"
    DECODE = "decode-bound"
    TRANSFER = "transfer-bound"
    ROUTER = "router-bound"
    NONE = "not bound"
    UNDERUSED = "underused"


@dataclass(frozen=True, slots=True)
class Sign:
    """One observation: the figures in words, and how near it is to being the bottleneck (1)."""

    words: str
    pressure: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One part of the cluster; its signs, the strongest first, and what would help."""

    bound: Bound
    signs: tuple[Sign, ...]
    advice: tuple[str, ...]

    @property
    def pressure(self) -> float:
        return max((sign.pressure for sign in self.signs), default=0.0)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict, and every part in order of pressure."""

    bound: Bound
    summary: str
    findings: tuple[Finding, ...]


def diagnose(evidence: Evidence) -> Diagnosis:
    """The most pressed part of the cluster, with the figures that say so and the settings that would help."""
    prefill, decode = _prefill(evidence), _decode(evidence)
    if (queue := _queue(evidence)) is not None:
        # The router's own queue waits for whichever pool is full; mostly that is prefill.
        if decode.pressure > max(prefill.pressure, _NEARLY):
            decode = _finding(decode.bound, (*decode.signs, queue), decode.advice)
        else:
            prefill = _finding(prefill.bound, (*prefill.signs, queue), prefill.advice)
    findings = sorted(
        (prefill, decode, _transfer(evidence), _router(evidence)), key=lambda finding: finding.pressure, reverse=True
    )
    first = findings[0]
    if first.pressure >= 1:
        return Diagnosis(first.bound, first.signs[0].words, tuple(findings))
    bound = Bound.UNDERUSED if first.pressure < _UNDERUSED else Bound.NONE
    return Diagnosis(bound, _relaxed(evidence, first), tuple(findings))


def _relaxed(evidence: Evidence, first: Finding) -> str:
    if not evidence.requests_per_s:
        return "no request ended in the window"
    if not first.signs:
        return "nothing was measured that could be under pressure"
    return f"{evidence.requests_per_s:.2f} requests/s; nearest to a limit: {first.signs[0].words}"


def _queue(evidence: Evidence) -> Sign | None:
    queue = evidence.router.queue
    if queue is None:
        return None
    who = f"requests of class {queue.slo_class}" if queue.slo_class else "requests"
    words = f"{who} wait {_ms(queue.seen_s)} in the router for a worker, {_ms(queue.bound_s)} are promised in all"
    # A mean may hide that those who wait were promised nothing. Where every promise is kept, no wait is too long.
    most = _OTHERS_FAULT if evidence.slo_share is not None and evidence.slo_share >= 1 else math.inf
    return Sign(words, min(queue.strain, most))


def _prefill(evidence: Evidence) -> Finding:
    pool = evidence.prefill
    signs = _pool_signs(pool, "prefill")
    if pool.waiting_requests:
        tokens = f" with {pool.waiting_tokens:,.0f} prompt tokens" if pool.waiting_tokens else ""
        signs.append(
            Sign(
                f"{pool.waiting_requests:.1f} requests{tokens} wait at a prefill worker",
                pool.waiting_requests / _WAITING,
            )
        )
    if evidence.prefill_s is not None:
        prefilled_per_s = evidence.requests_per_s * evidence.prefilled_share
        at_once = prefilled_per_s * evidence.prefill_s / max(1, pool.workers)
        # Prompts are computed in batches, so that two or three at once are not a queue yet.
        words = f"{at_once:.1f} requests at a prefill worker at a time (its prompts take {_ms(evidence.prefill_s)})"
        signs.append(Sign(words, at_once / 3))
    if (part := evidence.prefill_part) is not None:
        words = f"prefill takes {_ms(part.seen_s)} of the {_ms(part.bound_s)} promised{_to(part)} for the first token"
        signs.append(Sign(words, part.strain))
    return _finding(Bound.PREFILL, signs, prefill_advice(evidence))


def _decode(evidence: Evidence) -> Finding:
    pool = evidence.decode
    signs = _pool_signs(pool, "decode")
    if (waiting := _waiting_for_a_step(evidence)) is not None:
        running = pool.running_requests or 0.0
        words = f"{waiting:.1f} requests wait at a decode worker that runs {running:.0f}"
        signs.append(Sign(words, waiting / _WAITING))
    if (pace := evidence.decode_pace) is not None:
        words = f"a token takes {_ms(pace.seen_s)}, promised{_to(pace)} are {_ms(pace.bound_s)}"
        signs.append(Sign(words, pace.strain))
    if (waited_s := _decode_wait_s(evidence)) is not None:
        words = f"after its transfer a request waits {_ms(waited_s)} for decode's first step"
        # Ten steps are a queue, one or two are the way things go.
        signs.append(Sign(words, waited_s / (10 * evidence.decode_itl_s) if evidence.decode_itl_s else 0.0))
    return _finding(Bound.DECODE, signs, decode_advice(evidence))


def _waiting_for_a_step(evidence: Evidence) -> float | None:
    """Of the requests waiting at a decode worker, those whose KV cache is there: the engines count both as waiting."""
    pool, transfer = evidence.decode, evidence.transfer
    if not pool.waiting_requests or _waits_for_kv(pool):
        return None
    at_once = 0.0 if transfer is None else transfer.per_s * transfer.seconds / max(1, pool.workers)
    return max(0.0, pool.waiting_requests - at_once)


def _waits_for_kv(decode: PoolEvidence) -> bool:
    """An engine that runs next to nothing is not full: who waits there waits for a transfer."""
    return decode.running_requests is not None and decode.running_requests < 0.5


def _decode_wait_s(evidence: Evidence) -> float | None:
    transfer = evidence.transfer
    if transfer is None or transfer.handoff_s is None or not evidence.decode_itl_s:
        return None
    return max(0.0, transfer.handoff_s - transfer.seconds - evidence.decode_itl_s)


def _transfer(evidence: Evidence) -> Finding:
    transfer, decode = evidence.transfer, evidence.decode
    signs = []
    if decode.waiting_requests and _waits_for_kv(decode):
        words = f"{decode.waiting_requests:.1f} requests wait for their KV cache at a decode worker that runs none"
        signs.append(Sign(words, decode.waiting_requests / _WAITING))
    if transfer is not None:
        at_once = transfer.per_s * transfer.seconds / max(1, evidence.decode.workers)
        size = f" of {transfer.bytes_mean / 2**20:,.1f} MiB" if transfer.bytes_mean else ""
        words = f"{at_once:.2f} transfers{size} to a decode worker at a time, each {_ms(transfer.seconds)}"
        signs.append(Sign(words, at_once / FULL))
        # What a reader notices: the gap after the first token. Only where it is many steps long.
        if evidence.prefill_s and evidence.decode_itl_s and transfer.seconds > 4 * evidence.decode_itl_s:
            words = f"a transfer takes {_ms(transfer.seconds)}, the prefill before it {_ms(evidence.prefill_s)}"
            # Below a tenth of a second nobody notices.
            signs.append(Sign(words, min(transfer.seconds / evidence.prefill_s, transfer.seconds / 0.1)))
    return _finding(Bound.TRANSFER, signs, transfer_advice(evidence))


def _router(evidence: Evidence) -> Finding:
    router = evidence.router
    signs = []
    if router.cpu_cores is not None:
        signs.append(
            Sign(f"the router process uses {router.cpu_cores:.2f} cores of the one it can", router.cpu_cores / FULL)
        )
    if router.loop_lag_s is not None:
        own_s = _own_lag_s(router)
        words = f"its event loop wakes {_ms(router.loop_lag_s)} late at p99, {_ms(own_s)} of it by its own work"
        words += "; the rest is other work's on its machine" if router.loop_lag_s - own_s > _LAG_S else ""
        # A machine that is busy otherwise is worth saying, but no bound of the cluster.
        signs.append(Sign(words, max(own_s / _LAG_S, min(router.loop_lag_s / _LAG_S, _OTHERS_FAULT))))
    if router.outside_s is not None and evidence.ttft is not None and evidence.ttft.seen_s > 0:
        share = router.outside_s / evidence.ttft.seen_s
        words = (
            f"{_ms(router.outside_s)} of a first token's {_ms(evidence.ttft.seen_s)} pass outside the router's clock"
        )
        # Below a tenth of a second it is not what anybody waits for.
        signs.append(Sign(words, min(share / 0.5, router.outside_s / 0.1)))
    return _finding(Bound.ROUTER, signs, router_advice(evidence))


def _own_lag_s(router: RouterEvidence) -> float:
    """A router that doesn't tell is late by its own work unless it is idle."""
    if router.own_lag_s is not None:
        return router.own_lag_s
    idle = router.cpu_cores is not None and router.cpu_cores < 0.5
    return 0.0 if idle else router.loop_lag_s or 0.0


def _pool_signs(pool: PoolEvidence, name: str) -> list[Sign]:
    signs = []
    if pool.busy is not None:
        signs.append(Sign(f"the {name} pool is asked for {100 * pool.busy:.0f} % of what it can do", pool.busy / FULL))
    if pool.kv_usage is not None:
        signs.append(
            Sign(f"the fullest {name} worker's KV cache is {100 * pool.kv_usage:.0f} % used", pool.kv_usage / 0.95)
        )
    return signs


def _finding(bound: Bound, signs: Sequence[Sign], advice: Sequence[str]) -> Finding:
    return Finding(bound, tuple(sorted(signs, key=lambda sign: sign.pressure, reverse=True)), tuple(advice))


def _to(promise: Promise) -> str:
    return f" to class {promise.slo_class}" if promise.slo_class else ""


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:,.1f} ms" if seconds < 0.1 else f"{1000 * seconds:,.0f} ms"
