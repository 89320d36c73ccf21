"""What a diagnosis is made of: means over a window, each None where it isn't known."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class PoolEvidence:
    """One pool. ``waiting_requests`` and ``running_requests`` are of a worker in the mean, ``kv_usage`` of the fullest
    one (0 to 1). ``busy`` (0 to 1 and above): work asked for, by what the pool can do in the same time."""

    workers: int
    running_requests: float | None = None
    waiting_requests: float | None = None
    waiting_tokens: float | None = None
    kv_usage: float | None = None
    busy: float | None = None


@dataclass(frozen=True, slots=True)
class RouterEvidence:
    """``cpu_cores``: of one router process. ``outside_s``: of a first token's time, what passes outside the router's
    own clock: HTTP, network, and the client. ``own_lag_s``: of ``loop_lag_s``, what the loop's own work took, None
    where the router doesn't tell. ``queue``: the wait for a worker, against the first token's promise."""

    cpu_cores: float | None = None
    loop_lag_s: float | None = None
    queue: Promise | None = None
    outside_s: float | None = None
    own_lag_s: float | None = None


@dataclass(frozen=True, slots=True)
class TransferEvidence:
    """KV transfers: their mean time and size, how many there were a second, and the hand-off they are a part of."""

    seconds: float
    per_s: float
    bytes_mean: float = 0.0
    handoff_s: float | None = None


@dataclass(frozen=True, slots=True)
class Promise:
    """A class's mean against its bound; ``bound_s`` 0: nothing was promised. ``slo_class`` empty: of all requests."""

    seen_s: float
    bound_s: float
    slo_class: str = ""

    @property
    def strain(self) -> float:
        """1 is as much as was promised."""
        return self.seen_s / self.bound_s if self.bound_s else 0.0


def most_strained(promises: Iterable[Promise]) -> Promise | None:
    """That of the class which is worst off. What nothing was promised of says nothing."""
    return max((one for one in promises if one.bound_s), key=lambda one: one.strain, default=None)


@dataclass(frozen=True, slots=True)
class Evidence:
    """``prefill_s`` is the first leg with its wait in the engine's queue, and ``prefilled_share`` of the requests have
    it with a prefill worker; decode computes the prompts of the others. ``decode_itl_s`` leaves the hand-off out.

    Both are of all requests; ``prefill_part`` and ``decode_pace`` are the same of the class that is worst off by them,
    against what it was promised: a first token, and tokens no further apart. ``ttft`` is such a class's too, but of a
    load test that of all requests.

    ``slo_share``: of the requests, those that met their SLO. ``cached_share``: of the prompt tokens.
    """

    source: str
    window_s: float
    requests_per_s: float
    refused_per_s: float
    prefill: PoolEvidence
    decode: PoolEvidence
    router: RouterEvidence
    transfer: TransferEvidence | None
    ttft: Promise | None
    prefill_s: float | None = None
    prefilled_share: float = 1.0
    decode_itl_s: float | None = None
    cached_share: float | None = None
    slo_share: float | None = None
    prefill_part: Promise | None = None
    decode_pace: Promise | None = None
