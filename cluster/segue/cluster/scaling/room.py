"""Room for what comes again sooner than a worker starts.

What swings faster than a worker starts cannot be followed: a worker that is started for a burst comes when it is over,
and one that is given back in the lull after it is missed in the next one. So a pool is sized for this moment's load,
and for no less than it had within the last few starts: not for the highest load of that time, which one burst would
set, but for what is exceeded for as small a share of it as promises may be missed. What is much shorter than a start,
and what a load measured over seconds has of chance, is no reason to keep anything: loads of the past count as means
over one start. A load that moves more slowly has hardly been another within that time, and little is kept for it. The
same reasoning is behind the delayed switching off of AutoScale (Gandhi et al., ACM TOCS 2012), whose servers wait as a
multiple of their setup time.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from segue.cluster.scaling.joint import Work


@dataclass(frozen=True, slots=True)
class Load:
    """What arrived at one look, in workers of each pool at full use; without what had queued up."""

    at_s: float
    prefill: float
    decode: float


@dataclass(frozen=True, slots=True)
class Keep:
    """Room for the last ``starts`` times that a worker takes to start, which is ``start_s``; for these shares of them.

    A split must serve so much more than what arrives now, ``headroom``, since that may grow; what was seen before needs
    none.
    """

    start_s: float
    starts: float
    prefill_share: float
    decode_share: float
    headroom: float = 0.0

    @property
    def window_s(self) -> float:
        return self.starts * self.start_s


@dataclass(frozen=True, slots=True)
class Room:
    """The loads of late, newest last, the first one from when or before the window begins."""

    loads: tuple[Load, ...] = ()

    def after(self, load: Load, window_s: float) -> Room:
        """With one more, and without those that the window no longer reaches."""
        since_s = load.at_s - window_s
        before = [one for one in self.loads if one.at_s <= since_s]
        within = [one for one in self.loads if one.at_s > since_s]
        return Room((*before[-1:], *within, load))

    def covers(self, window_s: float) -> bool:
        """Whether so long a time has been seen at all."""
        return bool(self.loads) and self.loads[-1].at_s - self.loads[0].at_s >= window_s

    def sized(self, work: Work, keep: Keep) -> Work:
        """The work to have workers for: ``work``, and no less than was enough lately."""
        if not self.loads or not keep.window_s:
            return work
        means = means_over(self.loads, keep.start_s)
        prefill = enough_for(keep.prefill_share, (one.prefill for one in means)) / (1 + keep.headroom)
        decode = enough_for(keep.decode_share, (one.decode for one in means)) / (1 + keep.headroom)
        return Work(
            max(work.prompt_tokens_per_s, prefill * work.prefill_rate),
            max(work.output_tokens_per_s, decode * work.decode_rate),
            work.prefill_rate,
            work.decode_rate,
        )


def means_over(loads: Sequence[Load], span_s: float) -> list[Load]:
    """Of each load and those of the ``span_s`` before it; without the first ones, that have not so much before them,
    unless there are no others."""
    first, prefill, decode = 0, 0.0, 0.0
    means: list[Load] = []
    for last, load in enumerate(loads):
        prefill, decode = prefill + load.prefill, decode + load.decode
        while loads[first].at_s <= load.at_s - span_s:
            prefill, decode = prefill - loads[first].prefill, decode - loads[first].decode
            first += 1
        if last == first:  # Nothing is left of rounding.
            prefill, decode = load.prefill, load.decode
        count = last - first + 1
        means.append(Load(load.at_s, max(0.0, prefill / count), max(0.0, decode / count)))
    whole = [mean for mean in means if mean.at_s - loads[0].at_s >= span_s]
    return whole or means[-1:]


def enough_for(share: float, loads: Iterable[float]) -> float:
    """The least of ``loads``, of which there is one at least, that so large a share of them doesn't exceed."""
    ordered = sorted(loads)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]
