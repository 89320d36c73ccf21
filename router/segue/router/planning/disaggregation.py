"""Whether prefill and hand-off pay for one request, or decode computes its prompt itself. Pure; rates are measured.

A hand-off has a price: two queues, two frames, a transfer. For a short prompt, a prompt that decode has most of in its
cache, or with prefill busy, decode is done sooner on its own. But what it computes holds up the streams that it runs:
that is weighed too, second for second, and beyond what a reader would notice it is not done at all. Nor is it where the
first token would come later: what the hand-off takes comes behind it, once, between two tokens of many.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mode = Literal["auto", "always", "never"]

DEFAULT_MOST_STALL_S = 0.033  # A token's time at 30 tokens/s.


@dataclass(frozen=True, slots=True)
class Disaggregation:
    """``never`` has decode compute every prompt, ``always`` none for which there is a prefill worker.

    ``most_stall_s`` is how long streams that run may stand still for somebody else's prompt. Of requests for which a
    rate is not known, one in ``try_every`` is made to measure it. ``margin`` is the advantage, as part of the whole,
    that it takes to leave what was better the last time. ``most_later`` is by how much of itself a first token may come
    later for the sake of those behind it.
    """

    mode: Mode = "auto"
    most_stall_s: float = DEFAULT_MOST_STALL_S
    try_every: int = 16
    margin: float = 0.1
    most_later: float = 0.03


@dataclass(frozen=True, slots=True)
class Ways:
    """Both ways for one request. ``remote_s`` and ``local_s`` are to the first token, ``handoff_s`` from there to the
    next; ``remote_s`` is None where there is no prefill worker. ``stall_s`` is what computing ``tokens`` locally adds
    to a step of the ``running`` streams. ``local_known`` and ``remote_known``: from measured rates."""

    remote_s: float | None
    handoff_s: float
    local_s: float
    stall_s: float
    running: int
    tokens: int
    local_known: bool
    remote_known: bool


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
    harmless = not ways.running or ways.stall_s <= policy.most_stall_s
    if not ways.local_known:
        if harmless and ways.remote_known and number % policy.try_every == 0:
            return Decision(True, "tried, to measure how fast decode computes prompts", tried=True)
        return Decision(False, "how fast decode computes prompts is not known yet")
    if not harmless:
        return Decision(
            False,
            f"computing {ways.tokens} tokens on decode would hold up {ways.running} streams for {_ms(ways.stall_s)}",
        )
    remote_s = ways.remote_s + ways.handoff_s
    local_s = ways.local_s + ways.running * ways.stall_s
    margin_s = policy.margin * remote_s
    in_time = ways.local_s <= (1 + policy.most_later) * ways.remote_s
    local = in_time and local_s < remote_s + (margin_s if leans_local else -margin_s)
    streams = f", holding up {ways.running} streams" * bool(ways.running)
    return Decision(
        local,
        f"{ways.tokens} tokens take decode {_ms(ways.local_s)}{streams}; prefill {_ms(ways.remote_s)} and hand-off "
        f"{_ms(ways.handoff_s)}",
    )


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"
