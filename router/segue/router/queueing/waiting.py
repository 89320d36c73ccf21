"""One request that waits, what room there is for such, and how many may."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from segue.router.queueing.slo import SloClass


@dataclass(frozen=True, slots=True)
class Waiting:
    """Times are of the caller's monotonic clock.

    ``due_s`` is when its first token is due: by its class's TTFT, or for batch when it has yielded long enough.
    ``start_by_s`` is when it has to start for that. ``tokens`` is what it will count for in its tenant's share;
    ``blocks`` what it will need of decode's KV cache. A ``long`` prompt is one that would hold others up.
    """

    request_id: str
    slo_class: SloClass
    tenant: str
    priority: int
    prompt_tokens: int
    tokens: int
    n: int
    blocks: float
    long: bool
    due_s: float
    start_by_s: float


@dataclass(frozen=True, slots=True)
class QueueBounds:
    """How much may wait: requests and prompt tokens of one class, of which one named tenant may have a fraction.

    ``weights`` are tenants' shares of what starts, as ratios; who isn't named has 1.
    """

    requests: int = 512
    tokens: int = 4 * 1024 * 1024
    tenant_fraction: float = 0.5
    weights: Mapping[str, float] = field(default_factory=dict)


DEFAULT_BOUNDS = QueueBounds()


@dataclass(frozen=True, slots=True)
class Ahead:
    """What waits and would go before a request: answers, prompt tokens, blocks of decode's KV cache.

    ``passing_per_s`` requests will come meanwhile and pass it, of ``passing_tokens`` in the mean.
    """

    requests: int = 0
    prompt_tokens: int = 0
    blocks: float = 0.0
    passing_per_s: float = 0.0
    passing_tokens: float = 0.0


NOTHING_AHEAD = Ahead()


# Whether decode would compute a prompt of so many tokens itself.
OnDecode = Callable[[int], bool]


def no_prompt(tokens: int) -> bool:
    """All prompts go to prefill workers."""
    return False


@dataclass(frozen=True, slots=True)
class Room:
    """What may start now: a short prompt, a long one; so many answers and blocks of KV cache in decode.

    ``on_decode`` says of a prompt's tokens whether decode computes it anyway: prefill needs no room for it.
    """

    short: bool
    long: bool
    places: float = math.inf
    blocks: float = math.inf
    on_decode: OnDecode = field(default=no_prompt, compare=False)

    def takes_length(self, waiting: Waiting) -> bool:
        return (self.long if waiting.long else self.short) or self.on_decode(waiting.prompt_tokens)

    def takes(self, waiting: Waiting) -> bool:
        return self.takes_length(waiting) and waiting.n <= self.places and waiting.blocks <= self.blocks


@dataclass(frozen=True, slots=True)
class Rooms:
    """Of what there is, batch may take less, so that what comes next finds some."""

    interactive: Room
    batch: Room
