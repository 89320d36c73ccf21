"""Whose turn it is: shares of tokens by tenant, in virtual time.

Start-time fair queueing (Goyal, Vin, Cheng 1996) with slack: a tenant's clock advances by tokens over its weight, and
whoever is not more than ``slack_tokens`` ahead of the slowest may go. Within the slack deadlines decide; in the long
run shares do. Between two tenants that both keep waiting for the same, what they got by weight never differs by more
than the slack and one request.

Who waits may not be a rival of all others: what comes too late waits behind all that can be in time, whosever that is.
Those who are passed so are owed no more than the slack for it; else they would, coming back with something that can be
in time, hold up everybody else for as long as they have been passed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping


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

    def charge(self, tenant: str, tokens: float, rivals: Collection[str]) -> None:
        """One of its requests starts, and gets so many tokens; ``rivals`` are those who could have had its place, with
        the tenant itself."""
        self._clocks[tenant] += tokens / self._weights.get(tenant, 1.0)
        passed = [one for one in self._waiting if one not in rivals]
        if passed:
            # All alike: between them nothing changes.
            excess = self._clocks[tenant] - self._slack - min(self._clocks[one] for one in passed)
            for one in passed:
                self._clocks[one] += max(0.0, excess)

    def leave(self, tenant: str) -> None:
        """One of its requests waits no longer."""
        self._waiting[tenant] -= 1
        if not self._waiting[tenant]:
            del self._waiting[tenant]
        if self._waiting:
            self._advance()
        else:
            self._clocks.clear()
            self._now = 0.0

    def in_turn(self, rivals: Collection[str]) -> list[str]:
        """Those of these waiting tenants that may go now; empty if there are none."""
        limit = min((self._clocks[tenant] for tenant in rivals), default=0.0) + self._slack
        return [tenant for tenant in rivals if self._clocks[tenant] <= limit]

    def lead(self, tenant: str) -> float:
        """By how many tokens, over its weight, it is ahead of the slowest."""
        return self._clocks[tenant] - self._now

    def _advance(self) -> None:
        """The slowest one's clock is the time. Clocks that it has passed are forgotten with their tenants."""
        self._now = min(self._clocks[tenant] for tenant in self._waiting)
        for tenant in [one for one, clock in self._clocks.items() if one not in self._waiting and clock <= self._now]:
            del self._clocks[tenant]
