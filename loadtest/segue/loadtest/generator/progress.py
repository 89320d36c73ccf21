"""How far a load test has come."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts since the start."""

    sent: int = 0
    ended: int = 0
    failed: int = 0
    output_tokens: int = 0
    now_s: float = 0.0

    @property
    def in_flight(self) -> int:
        return self.sent - self.ended

    @staticmethod
    def together(parts: Iterable[Progress]) -> Progress:
        """Of several generators."""
        listed = list(parts)
        return Progress(
            sum(part.sent for part in listed),
            sum(part.ended for part in listed),
            sum(part.failed for part in listed),
            sum(part.output_tokens for part in listed),
            max((part.now_s for part in listed), default=0.0),
        )


OnProgress = Callable[[Progress], None]
"""Called some times a second."""
