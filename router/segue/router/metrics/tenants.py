"""What each tenant has used: the same figures as in the usage log, added up.

A tenant is an object whose numbers grow, not a label of seven counters: a request that ends pays for one look-up.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from segue.base.metrics import Labels, Metric, Reading
from segue.router.lifecycle.records import RequestRecord
from segue.router.metrics import catalogue

OTHER_TENANTS = "other"

_COST_PARTS = ("input", "cached", "output")


@dataclass(slots=True)
class Used:
    """By one tenant. Seconds are of requests' first answers, as in ``Timings``; ``cost`` is by currency and part."""

    requests: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    prefill_s: float = 0.0
    transfer_s: float = 0.0
    decode_s: float = 0.0
    cost: dict[tuple[str, str], float] = field(default_factory=lambda: defaultdict(float))

    def add(self, record: RequestRecord) -> None:
        usage, timings, cost = record.usage, record.timings, record.cost
        self.requests += 1
        self.prompt_tokens += usage.prompt_tokens
        self.cached_tokens += usage.cached_prompt_tokens
        self.output_tokens += usage.output_tokens
        self.prefill_s += timings.prefill_s
        self.transfer_s += timings.transfer_s
        self.decode_s += timings.decode_s
        if cost is not None:
            for part in _COST_PARTS:
                self.cost[cost.currency, part] += getattr(cost, part)


class Tenants:
    """``most`` bounds how many are named; those who come later count together, as :data:`OTHER_TENANTS`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used: dict[str, Used] = {}

    def count(self, record: RequestRecord) -> None:
        """A request that is over, however it ended."""
        used = self._used.get(record.tenant)
        if used is None:
            named = len(self._used) - (OTHER_TENANTS in self._used) < self._most
            used = self._used.setdefault(record.tenant if named else OTHER_TENANTS, Used())
        used.add(record)

    def readings(self) -> Mapping[Metric, Reading]:
        read: dict[Metric, dict[Labels, float]] = {metric: {} for metric in _OF_TENANT}
        for tenant, used in self._used.items():
            read[catalogue.TENANT_REQUESTS][(tenant,)] = used.requests
            read[catalogue.PROMPT_TOKENS][(tenant,)] = used.prompt_tokens
            read[catalogue.CACHED_TOKENS][(tenant,)] = used.cached_tokens
            read[catalogue.OUTPUT_TOKENS][(tenant,)] = used.output_tokens
            seconds = {"prefill": used.prefill_s, "transfer": used.transfer_s, "decode": used.decode_s}
            read[catalogue.TENANT_SECONDS] |= {(tenant, part): value for part, value in seconds.items()}
            read[catalogue.COST] |= {(tenant, *what): value for what, value in used.cost.items()}
        return read


_OF_TENANT = (
    catalogue.TENANT_REQUESTS,
    catalogue.PROMPT_TOKENS,
    catalogue.CACHED_TOKENS,
    catalogue.OUTPUT_TOKENS,
    catalogue.TENANT_SECONDS,
    catalogue.COST,
)
