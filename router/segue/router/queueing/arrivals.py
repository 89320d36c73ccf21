"""How much of each class is asked for: requests a second and their prompts' length. Clock passed in."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from segue.router.queueing.slo import SloClass

# What was asked this long ago counts for 1/e.
_MEMORY_S = 3.0
_KEEP = 0.95


@dataclass(slots=True)
class _Arrivals:
    count: float = 0.0
    at_s: float = 0.0
    mean_tokens: float = 0.0


class ArrivalMeter:
    """By class, and whatever else has a name. Those that are refused count too: what is kept free for a class would
    otherwise never be found to be wanted."""

    def __init__(self) -> None:
        self._arrivals: dict[str, _Arrivals] = {}

    def asked(self, name: str, now_s: float) -> None:
        """One request has come; its prompt may not have been tokenised yet."""
        arrivals = self._arrivals.setdefault(name, _Arrivals(at_s=now_s))
        arrivals.count = arrivals.count * _faded(now_s - arrivals.at_s) + 1
        arrivals.at_s = now_s

    def tokenised(self, name: str, prompt_tokens: int) -> None:
        """One has turned out to be this long."""
        arrivals = self._arrivals.setdefault(name, _Arrivals())
        known = arrivals.mean_tokens
        arrivals.mean_tokens = _KEEP * known + (1 - _KEEP) * prompt_tokens if known else float(prompt_tokens)

    def rate(self, name: str, now_s: float) -> tuple[float, float]:
        """Requests a second, and their mean prompt tokens."""
        arrivals = self._arrivals.get(name)
        if arrivals is None:
            return 0.0, 0.0
        return arrivals.count * _faded(now_s - arrivals.at_s) / _MEMORY_S, arrivals.mean_tokens

    def passing(self, slo_class: SloClass, classes: Iterable[SloClass], now_s: float) -> tuple[float, float]:
        """The same for all classes that go before this one."""
        rate, tokens_rate = 0.0, 0.0
        for other in classes:
            if other.interactive and other.ttft_s < (slo_class.ttft_s or math.inf):
                own, mean_tokens = self.rate(other.name, now_s)
                rate, tokens_rate = rate + own, tokens_rate + own * mean_tokens
        return rate, tokens_rate / rate if rate else 0.0


def _faded(seconds: float) -> float:
    return math.exp(-max(0.0, seconds) / _MEMORY_S)
