"""Whose turn it is: shares of tokens by tenant, in virtual time.

Start-time fair queueing (Goyal, Vin, Cheng 1996) with slack: a tenant's clock advances by tokens over its weight, and
whoever is not more than ``slack_tokens`` ahead of the slowest may go. Within the slack deadlines decide; in the long
run shares do. Between two tenants that both keep waiting, what they got by weight never differs by more than the slack
and one request.
"""

from __future__ import annotations

from collections.abc import Mapping


class FairShare:
    """Counts while somebody waits; when nobody does, all begin anew."""

    def __init__(self, weights: Mapping[str, float], slack_tokens: float) -> None:
        self._weights = weights
        self._slack = slack_tokens
        self._clocks: dict[str, float] = {}
        self._waiting: dict[str, int] = {}
        self._now = 0.0

    def enter(self, tenant: str) -> None:
        """One more request of this tenant waits. One who comes back has saved nothing up."""
        waiting = self._waiting.get(tenant, 0)
        self._waiting[tenant] = waiting + 1
        if not waiting:
            self._clocks[tenant] = max(self._clocks.get(tenant, 0.0), self._now)
            self._advance()

    def leave(self, tenant: str, tokens: float = 0.0) -> None:
        """One of its requests waits no longer; it gets so many tokens, 0 if it was not started."""
        self._clocks[tenant] += tokens / self._weights.get(tenant, 1.0)
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
        if self._waiting:
            self._advance()
        else:
            self._clocks.clear()
            self._now = 0.0

    def in_turn(self) -> list[str]:
        """The tenants that may go now; empty if nobody waits."""
        limit = self._now + self._slack
        return [tenant for tenant in self._waiting if self._clocks[tenant] <= limit]

    def lead(self, tenant: str) -> float:
        """By how many tokens, over its weight, it is ahead of the slowest."""
        return self._clocks[tenant] - self._now

    def _advance(self) -> None:
        """The slowest one's clock is the time. Clocks that it has passed are forgotten with their tenants."""
        self._now = min(self._clocks[tenant] for tenant in self._waiting)
        for tenant in [one for one, clock in self._clocks.items() if one not in self._waiting and clock <= self._now]:
            del self._clocks[tenant]
