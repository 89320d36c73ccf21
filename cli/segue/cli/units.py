"""Figures as people read them."""

from __future__ import annotations

_BAR_CHARACTERS = 8
_SCALES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float) -> str:
    """``0``, ``950``, ``12.3k``."""
    for scale, letter in _SCALES:
        if value >= 10 * scale or (scale > 1e3 and value >= scale):
            return f"{value / scale:.1f}{letter}"
    return f"{value:.0f}"


def per_second(value: float) -> str:
    """As :func:`count`, with a decimal where it matters; nothing at all is a dot."""
    if not value:
        return "·"
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else count(value)


def duration(seconds: float) -> str:
    """``0.4 ms``, ``32 ms``, ``1.25 s``, ``12 min``, ``3.2 h``."""
    if seconds < 0.01:
        return f"{seconds * 1e3:.1f} ms"
    if seconds < 1:
        return f"{seconds * 1e3:.0f} ms"
    if seconds < 120:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def byte_rate(value: float) -> str:
    for scale, letter in _SCALES:
        if value >= scale:
            return f"{value / scale:.1f} {letter}B/s"
    return f"{value:.0f} B/s"


def ratio(part: float, whole: float) -> str:
    """A percentage; nothing of nothing is blank."""
    return f"{part / whole:.0%}" if whole else ""


def bar(share: float) -> str:
    """``██░░░░░░  25%``."""
    filled = round(min(max(share, 0.0), 1.0) * _BAR_CHARACTERS)
    return f"{'█' * filled}{'░' * (_BAR_CHARACTERS - filled)} {share:4.0%}"
