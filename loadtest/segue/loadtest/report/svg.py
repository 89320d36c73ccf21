"""Plots as SVG, made by hand: no library in the base install draws, and these few shapes don't need one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

_WIDTH, _HEIGHT = 560, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 14, 12, 40


@dataclass(frozen=True, slots=True)
class Line:
    """Points in order of x; None breaks the line. ``colour`` names a CSS variable; ``filled`` down to zero."""

    name: str
    points: Sequence[tuple[float, float | None]]
    colour: str
    filled: bool = False


@dataclass(frozen=True, slots=True)
class Axes:
    """``x_log``: decades. ``marks``: dashed vertical lines with a word each. ``shade_to``: x up to which is greyed."""

    x: str
    y: str
    x_log: bool = False
    y_max: float | None = None
    marks: tuple[tuple[float, str], ...] = ()
    levels: tuple[tuple[float, str], ...] = ()
    shade_to: float | None = None


def plot(lines: Sequence[Line], axes: Axes) -> str:
    """One SVG with a legend; a note instead where there is nothing to draw."""
    drawn = [line for line in lines if any(y is not None for _, y in line.points)]
    if not drawn:
        return '<p class="nothing">Nothing to show: no request was answered.</p>'
    frame = _Frame.around(drawn, axes)
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(axes.y)} over {escape(axes.x)}">',
        *_shade(frame, axes),
        *_grid(frame, axes),
        *(_area(line, frame) for line in drawn if line.filled),
        *(_path(line, frame) for line in drawn),
        *_marks(frame, axes),
        "</svg>",
    ]
    return _legend(drawn) + "".join(parts)


@dataclass(frozen=True, slots=True)
class _Frame:
    """Where the data's ranges lie in the picture."""

    x_low: float
    x_high: float
    y_high: float
    x_log: bool

    @classmethod
    def around(cls, lines: Sequence[Line], axes: Axes) -> _Frame:
        xs = [x for line in lines for x, y in line.points if y is not None]
        ys = [y for line in lines for _, y in line.points if y is not None]
        y_high = axes.y_max or max([*ys, *(level for level, _ in axes.levels if level < 3 * max(ys))]) * 1.08
        if axes.x_log:
            low = max(min(xs), 1e-6)
            return cls(low, max(*xs, low * 1.01), y_high or 1.0, True)
        return cls(min(0.0, *xs), max(*xs, 1e-9), y_high or 1.0, False)

    def x(self, value: float) -> float:
        if self.x_log:
            share = math.log(max(value, self.x_low) / self.x_low) / math.log(self.x_high / self.x_low)
        else:
            share = (value - self.x_low) / (self.x_high - self.x_low)
        return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        share = min(value / self.y_high, 1.0)
        return _HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM)


def _grid(frame: _Frame, axes: Axes) -> list[str]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    parts = []
    for value in _ticks(0.0, frame.y_high):
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{short(value)}</text>')
    ticks = _log_ticks(frame.x_low, frame.x_high) if frame.x_log else _ticks(frame.x_low, frame.x_high, 8)
    for value in ticks:
        x = frame.x(value)
        parts.append(f'<line class="tick" x1="{x:.1f}" x2="{x:.1f}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{short(value)}</text>')
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    middle = (_LEFT + right) / 2
    parts.append(f'<text class="label" x="{middle}" y="{_HEIGHT - 6}" text-anchor="middle">{escape(axes.x)}</text>')
    centre = (_TOP + bottom) / 2
    parts.append(
        f'<text class="label" x="13" y="{centre}" text-anchor="middle" transform="rotate(-90 13 {centre})">'
        f"{escape(axes.y)}</text>"
    )
    return parts


def _shade(frame: _Frame, axes: Axes) -> list[str]:
    if not axes.shade_to:
        return []
    width = frame.x(axes.shade_to) - _LEFT
    return [
        f'<rect class="shade" x="{_LEFT}" y="{_TOP}" width="{width:.1f}" height="{_HEIGHT - _TOP - _BOTTOM}"/>',
        f'<text class="mark" x="{_LEFT + 4}" y="{_TOP + 11}">warm-up</text>',
    ]


def _marks(frame: _Frame, axes: Axes) -> list[str]:
    parts = []
    for value, words in axes.marks:
        if frame.x_low <= value <= frame.x_high:
            x, bottom = frame.x(value), _HEIGHT - _BOTTOM
            parts.append(f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>')
            anchor, shift = ("end", -4) if x > _WIDTH / 2 else ("start", 4)
            parts.append(
                f'<text class="mark" x="{x + shift:.1f}" y="{bottom - 6}" text-anchor="{anchor}">{escape(words)}</text>'
            )
    for value, words in axes.levels:
        if value <= frame.y_high:
            y = frame.y(value)
            parts.append(f'<line class="bound" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(
                f'<text class="mark" x="{_WIDTH - _RIGHT - 4}" y="{y - 4:.1f}" text-anchor="end">{escape(words)}</text>'
            )
    return parts


def _runs(line: Line) -> list[list[tuple[float, float]]]:
    """The stretches between breaks."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in line.points:
        if y is None:
            runs.append([])
        else:
            runs[-1].append((x, y))
    return [run for run in runs if run]


def _path(line: Line, frame: _Frame) -> str:
    parts = []
    for run in _runs(line):
        if len(run) == 1:
            [(x, y)] = run
            parts.append(f'<circle cx="{frame.x(x):.1f}" cy="{frame.y(y):.1f}" r="2" fill="var(--{line.colour})"/>')
            continue
        points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in run)
        parts.append(f'<polyline points="{points}" stroke="var(--{line.colour})"/>')
    return "".join(parts)


def _area(line: Line, frame: _Frame) -> str:
    parts = []
    for run in _runs(line):
        points = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in run)
        first, last, bottom = frame.x(run[0][0]), frame.x(run[-1][0]), _HEIGHT - _BOTTOM
        parts.append(
            f'<polygon points="{first:.1f},{bottom} {points} {last:.1f},{bottom}" fill="var(--{line.colour})"/>'
        )
    return "".join(parts)


def _legend(lines: Sequence[Line]) -> str:
    keys = "".join(f'<span><i style="background:var(--{line.colour})"></i>{escape(line.name)}</span>' for line in lines)
    return f'<div class="legend">{keys}</div>'


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Round numbers from low to high."""
    span = high - low
    if span <= 0:
        return [low]
    raw = span / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw)
    first, last = math.ceil(low / step), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 in each decade; over many decades only the 1."""
    factors = (1, 2, 5) if high / low < 2000 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    values = [factor * 10.0**power for power in powers for factor in factors]
    inside = [value for value in values if low <= value <= high]
    return inside or [low, high]


def short(value: float) -> str:
    """A number as briefly as it goes: 12k, 0.05."""
    if value == 0:
        return "0"
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:.3g}M"
    if abs(value) >= 10_000:
        return f"{value / 1000:.3g}k"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
