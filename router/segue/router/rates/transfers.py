"""How fast KV caches travel from each prefill worker to each decode worker, from what decode workers report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import nsmallest

from segue.router.rates.lines import NOTHING, Line, LineMeter

# Pairs differ by noise: only one that is this much faster or slower than all together has a rate of its own. Else
# equal workers would not share equally, and none would be tried again after a bad moment.
OWN_RATE = 2.0
_LEAST_SAMPLES = 5


@dataclass(frozen=True, slots=True)
class Links:
    """Seconds by bytes: over all pairs, and of the pairs that stand out, by (prefill id, decode id)."""

    common: Line = NOTHING
    own: Mapping[tuple[str, str], Line] = field(default_factory=dict)

    def between(self, prefill_id: str, decode_id: str) -> Line:
        return self.own.get((prefill_id, decode_id), self.common)


class TransferMeter:
    def __init__(self) -> None:
        self._common = LineMeter(memory=0.99)
        self._pairs: dict[tuple[str, str], LineMeter] = {}
        self._own: dict[tuple[str, str], Line] = {}
        self._links: Links | None = Links()

    def measured(self, prefill_id: str, decode_id: str, transferred_bytes: int, seconds: float) -> None:
        """One transfer, as decode timed it."""
        pair = (prefill_id, decode_id)
        meter = self._pairs.get(pair)
        if meter is None:
            meter = self._pairs[pair] = LineMeter()
        meter.add(transferred_bytes, seconds)
        self._common.add(transferred_bytes, seconds)
        line, usual_s = meter.line, self._common.line(transferred_bytes)
        stands_out = not usual_s / OWN_RATE <= line(transferred_bytes) <= usual_s * OWN_RATE
        if line.samples >= _LEAST_SAMPLES and stands_out:
            self._own[pair] = line
        else:
            self._own.pop(pair, None)
        self._links = None

    def pairs(self, most: int) -> list[tuple[str, str]]:
        """Of the pairs that have been measured so many: those that stand out, then those used most."""
        measured = {pair: meter.samples for pair, meter in self._pairs.items() if meter.samples}
        return nsmallest(most, measured, key=lambda pair: (pair not in self._own, -measured[pair]))

    def line(self, pair: tuple[str, str]) -> Line:
        """Of a pair that has been measured."""
        return self._pairs[pair].line

    def forget(self, worker_id: str) -> None:
        """The worker is gone."""
        gone = [pair for pair in self._pairs if worker_id in pair]
        for pair in gone:
            del self._pairs[pair]
            self._own.pop(pair, None)
        if gone:
            self._links = None

    @property
    def links(self) -> Links:
        if self._links is None:
            self._links = Links(self._common.line, dict(self._own))
        return self._links
