"""Whether prefill and hand-off pay for one request, or decode computes its prompt itself. Pure; rates are measured.

A hand-off has a price: two queues, two frames, a transfer. For a short prompt, a prompt that decode has most of in its
cache, or with prefill busy, decode is done sooner on its own. But what it computes holds up the streams that it runs:
that is weighed too, second for second, and beyond what a reader would notice it is not done at all. Nor is it where the
first token would come later: what the hand-off takes comes behind it, once, between two tokens of many.

Where workers share cores or a GPU, a prompt takes time from running streams wherever it is computed. Both ways are
charged with it, and what streams would lose to a prefill worker anyway is no harm that decode does. If that is most of
it, a hand-off doesn't spare them, and nothing but the sum decides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["auto", "always", "never"]

DEFAULT_MOST_STALL_S = 0.033  # A token's time at 30 tokens/s.


@dataclass(frozen=True, slots=True)
class Disaggregation:
    """``never`` has decode compute every prompt, ``always`` none for which there is a prefill worker.

    ``most_stall_s`` is how long streams that run may stand still for somebody else's prompt, beyond what they lose to
    it anyway; it holds if a hand-off spares them ``least_spared`` of that. Of requests of a size for which a rate is
    not known, or in doubt, one after each ``try_every`` others is made to measure it; where a hand-off costs running
    streams something too, an eighth of that: there is less to lose.
    ``margin`` is the advantage, as part of the whole, that it takes to leave what was better the last time.
    ``most_later`` is by how much of itself a first token may come later for the sake of those behind it, and further by
    what running streams win.
    """

    mode: Mode = "auto"
    most_stall_s: float = DEFAULT_MOST_STALL_S
    least_spared: float = 0.5
    try_every: int = 16
    margin: float = 0.1
    most_later: float = 0.03


@dataclass(frozen=True, slots=True)
class Ways:
    """Both ways for one request. ``remote_s`` and ``local_s`` are to the first token, ``handoff_s`` from there to the
    next; ``remote_s`` is None where there is no prefill worker. ``stall_s`` is what computing ``tokens`` locally adds
    to a step of the ``running`` streams. ``remote_lost_s`` and ``local_lost_s`` are what other engines' streams lose
    together to one more engine that computes. ``doubt_s`` is what ``local_s`` has beyond what steps account for: seen
    before, perhaps in a bad moment. ``local_known`` and ``remote_known``: from measured rates."""

    remote_s: float | None
    handoff_s: float
    local_s: float
    stall_s: float
    running: int
    tokens: int
    local_known: bool
    remote_known: bool
    remote_lost_s: float = 0.0
    local_lost_s: float = 0.0
    doubt_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Decision:
    local: bool
    reason: str
    tried: bool = False


def decide(policy: Disaggregation, ways: Ways, number: int, leans_local: bool) -> Decision:
    if ways.remote_s is None:
        return Decision(True, "no prefill worker was ready")
    if policy.mode != "auto":
        return Decision(policy.mode == "never", f"--disaggregation {policy.mode}")
    stalls_s = ways.running * ways.stall_s
    spared_s = stalls_s - ways.remote_lost_s
    harmless = spared_s <= max(ways.running * policy.most_stall_s, policy.least_spared * stalls_s)
    due = number >= (policy.try_every // 8 if ways.remote_lost_s else policy.try_every)
    if not ways.local_known:
        if harmless and ways.remote_known and due:
            return Decision(True, "tried, to measure how fast decode computes prompts", tried=True)
        return Decision(False, "how fast decode computes prompts is not known yet")
    if not harmless:
        return Decision(
            False,
            f"computing {ways.tokens} tokens on decode would hold up {ways.running} streams for {_ms(ways.stall_s)}"
            f"{_lost(ways.remote_lost_s)}",
        )
    remote_s = ways.remote_s + ways.handoff_s + ways.remote_lost_s
    margin_s = policy.margin * remote_s * (1 if leans_local else -1)

    def better(local_s: float) -> bool:
        later_s = local_s - (1 + policy.most_later) * (ways.remote_s or 0.0)
        return (
            later_s <= max(0.0, -spared_s - ways.local_lost_s)
            and local_s + stalls_s + ways.local_lost_s < remote_s + margin_s
        )

    local = better(ways.local_s)
    if not local and due and better(ways.local_s - ways.doubt_s):
        return Decision(True, "tried, to measure again how long prompts wait on decode", tried=True)
    streams = f", holding up {ways.running} streams" * bool(ways.running)
    return Decision(
        local,
        f"{ways.tokens} tokens take decode {_ms(ways.local_s)}{streams}; prefill {_ms(ways.remote_s)} and hand-off "
        f"{_ms(ways.handoff_s)}{_lost(ways.remote_lost_s)}",
    )


def _lost(seconds: float) -> str:
    return f", at {_ms(seconds)} lost by all streams together" * bool(seconds)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
