"""The last minute: rates and quantiles for people who look now, by differences of what is counted. Clock passed in."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from segue.base.metrics import quantile
from segue.proto.fleet_pb2 import FleetRates, Quantiles
from segue.router.metrics import catalogue
from segue.router.metrics.totals import Totals

WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Look:
    """All that one class has counted up to one moment."""

    totals: Totals = field(default_factory=Totals)
    ttft: np.ndarray = field(default_factory=lambda: np.zeros(len(catalogue.TTFT.buckets) + 1, dtype=np.int64))
    itl: np.ndarray = field(default_factory=lambda: np.zeros(len(catalogue.ITL.buckets) + 1, dtype=np.int64))

    def __sub__(self, earlier: Look) -> Look:
        return Look(self.totals - earlier.totals, self.ttft - earlier.ttft, self.itl - earlier.itl)

    def __add__(self, other: Look) -> Look:
        return Look(self.totals + other.totals, self.ttft + other.ttft, self.itl + other.itl)


Looks = dict[str, Look]


class Window:
    """``look`` reads all classes as they are now. Call :meth:`tick` once a second or so."""

    def __init__(self, look: Callable[[], Looks], now_s: float, length_s: float = WINDOW_S) -> None:
        self._look = look
        self._length_s = length_s
        self._looks: deque[tuple[float, Looks]] = deque([(now_s, look())])

    def tick(self, now_s: float) -> None:
        self._looks.append((now_s, self._look()))
        while len(self._looks) > 2 and self._looks[1][0] <= now_s - self._length_s:
            self._looks.popleft()

    def seconds(self, now_s: float, length_s: float = WINDOW_S) -> float:
        """What the last ``length_s`` cover now: less after a start, and up to a tick more."""
        return now_s - self._began(now_s, length_s)[0]

    def rates(self, now_s: float, length_s: float = WINDOW_S) -> dict[str, FleetRates]:
        """By class, over the last ``length_s``; the empty name stands for all of them together."""
        began_s, began = self._began(now_s, length_s)
        ever = self._look()
        counted = {name: look - began.get(name, Look()) for name, look in ever.items()}
        counted[""], ever[""] = _sum(counted.values()), _sum(ever.values())
        return {name: _rates(look, ever[name].totals, max(now_s - began_s, 1e-9)) for name, look in counted.items()}

    def cached_share(self, now_s: float, length_s: float = WINDOW_S) -> float:
        """Of the prompt tokens of requests that ended, those that came from a prefix cache: 0 to 1; 0 without any."""
        began = self._began(now_s, length_s)[1]
        counted = [look.totals - began.get(name, Look()).totals for name, look in self._look().items()]
        tokens = sum(totals.prompt_tokens for totals in counted)
        return sum(totals.cached_tokens for totals in counted) / tokens if tokens else 0.0

    def _began(self, now_s: float, length_s: float) -> tuple[float, Looks]:
        """The latest look that is so long ago; the first one where none is."""
        return next((look for look in reversed(self._looks) if look[0] <= now_s - length_s), self._looks[0])


def _sum(looks: Iterable[Look]) -> Look:
    total = Look()
    for look in looks:
        total = total + look
    return total


def _rates(look: Look, ever: Totals, seconds: float) -> FleetRates:
    totals = look.totals
    asked = totals.accepted + totals.busy
    rates = FleetRates(
        requests_per_s=totals.requests / seconds,
        failed_per_s=totals.failed / seconds,
        refused_per_s=totals.refused / seconds,
        # Each token but the first one is a gap, so that streams count while they run.
        output_tokens_per_s=float(look.itl.sum() + look.ttft.sum()) / seconds,
        prompt_tokens_per_s=totals.prompt_tokens / seconds,
        cached_prompt_tokens_per_s=totals.cached_tokens / seconds,
        transfer_bytes_per_s=totals.transfer_bytes / seconds,
        ttft_s=_quantiles(catalogue.TTFT.buckets, look.ttft),
        itl_s=_quantiles(catalogue.ITL.buckets, look.itl),
        arriving_requests_per_s=asked / seconds,
        arriving_prompt_tokens_per_s=asked
        * _mean((totals.accepted_tokens, totals.accepted), (ever.accepted_tokens, ever.accepted))
        / seconds,
        mean_output_tokens=_mean((totals.output_tokens, totals.answered), (ever.output_tokens, ever.answered)),
    )
    if totals.judged:
        rates.slo_attainment = totals.met / totals.judged
    if totals.first_judged:
        rates.ttft_attainment = totals.first_met / totals.first_judged
    if totals.pace_judged:
        rates.itl_attainment = totals.pace_met / totals.pace_judged
    return rates


def _mean(*sums: tuple[int, int]) -> float:
    """The first of these sums and counts that has any; 0 if none has."""
    return next((total / count for total, count in sums if count), 0.0)


def _quantiles(bounds: tuple[float, ...], counts: np.ndarray) -> Quantiles:
    p50, p90, p99 = (quantile(bounds, counts.tolist(), q) for q in (0.5, 0.9, 0.99))
    return Quantiles(p50=p50, p90=p90, p99=p99, count=int(counts.sum()))
