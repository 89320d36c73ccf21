"""W3C trace context: whose span a piece of work belongs under. https://www.w3.org/TR/trace-context/"""

from __future__ import annotations

import re
from dataclasses import dataclass

HEADER = "traceparent"

_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceParent:
    """Ids in hex, as the header has them."""

    trace_id: str
    span_id: str
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


def parse_trace_parent(text: str | None) -> TraceParent | None:
    """None for what is no valid header: the standard has it ignored. Later versions are read as far as known."""
    if not text or (found := _FORM.fullmatch(text.strip())) is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return TraceParent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))
