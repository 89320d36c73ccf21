"""What the generator asks of a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from segue.loadtest.measure.outcome import Outcome
from segue.loadtest.workload.shape import RequestShape

Clock = Callable[[], float]
"""Seconds since the load's start."""


class Target(Protocol):
    """One server. Used on one event loop."""

    def prepare(self, shape: RequestShape) -> Any:
        """The request in the form in which it is sent, made ahead of time: it costs more than sending."""

    async def send(self, prepared: Any, outcome: Outcome, clock: Clock) -> None:
        """Send it and fill in the outcome until the answer is over. Never raises for what the server does."""

    async def close(self) -> None:
        """Drop all connections."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What every request says besides its prompt. ``timeout_s`` is the client's own limit, from sending."""

    model: str
    timeout_s: float = 600.0
    ignore_eos: bool = True
    temperature: float = 0.0
    api_key: str = field(default="", repr=False)
    headers: tuple[tuple[str, str], ...] = ()
