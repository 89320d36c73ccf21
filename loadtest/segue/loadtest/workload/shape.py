"""The vocabulary of a workload: requests as lengths, times and shared beginnings, without words."""

from __future__ import annotations

from dataclasses import dataclass

# Names from here on are of segments that no other request has; below are blocks of a trace and shared prefixes.
OWN_SEGMENTS = 1 << 30


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a prompt. Two of one name have the same tokens, as far as the shorter one goes."""

    name: int
    tokens: int


@dataclass(frozen=True, slots=True)
class RequestShape:
    """One request.

    ``at_s`` is when it is to be sent, in seconds since the start; a closed loop sends when it has a client free and
    doesn't look at it.
    """

    index: int
    at_s: float
    segments: tuple[Segment, ...]
    output_tokens: int
    slo_class: str = ""

    @property
    def prompt_tokens(self) -> int:
        return sum(segment.tokens for segment in self.segments)
