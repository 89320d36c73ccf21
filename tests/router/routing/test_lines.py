from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segue.router.rates.lines import LineMeter

sizes = st.lists(st.floats(1, 1e6), min_size=1, max_size=60)


@given(st.floats(0, 1), st.floats(1e-6, 1e-2), sizes)
def test_a_line_through_its_own_points_is_found(fixed_s: float, each_s: float, xs: list[float]) -> None:
    meter = LineMeter()
    for x in xs:
        meter.add(x, fixed_s + each_s * x)
    line = meter.line
    assert line.samples == len(xs)
    assert line.fixed_s >= -1e-9
    assert line.each_s > 0
    mean = sum(xs[-20:]) / len(xs[-20:])
    assert line(mean) <= 4 * (fixed_s + each_s * max(xs))


def test_the_fixed_part_is_told_from_the_part_for_each_token() -> None:
    meter = LineMeter()
    for x in [100, 200, 1000, 50, 4000] * 4:
        meter.add(x, 0.02 + 0.0001 * x)
    assert meter.line.fixed_s == pytest.approx(0.02, rel=0.01)
    assert meter.line.each_s == pytest.approx(0.0001, rel=0.01)


def test_prompts_of_one_size_say_nothing_of_a_fixed_part() -> None:
    meter = LineMeter()
    for _ in range(5):
        meter.add(100, 0.02)
    assert meter.line(1000) == pytest.approx(0.2)


def test_noise_among_short_prompts_makes_long_ones_not_free() -> None:
    meter = LineMeter()
    for _ in range(10):
        meter.add(100, 0.02)
        meter.add(120, 0.018)
    assert meter.line(10_000) > 0.09


def test_nothing_measured_is_no_line() -> None:
    meter = LineMeter()
    meter.add(0, 1.0)
    meter.add(5, -1.0)
    assert not meter.line
