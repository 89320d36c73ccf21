"""W3C trace context."""

from __future__ import annotations

import pytest

from segue.base.trace_parent import TraceParent, parse_trace_parent

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize("sampled", [True, False])
def test_a_header_is_read_as_it_is_written(sampled: bool) -> None:
    parent = TraceParent(TRACE, SPAN, sampled)
    assert parse_trace_parent(str(parent)) == parent


def test_a_later_version_is_read_as_far_as_it_is_known() -> None:
    assert parse_trace_parent(f"01-{TRACE}-{SPAN}-01-more") == TraceParent(TRACE, SPAN, True)


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "rubbish",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}",
        "0" * 100_000,
    ],
)
def test_what_is_no_header_is_ignored(text: str | None) -> None:
    assert parse_trace_parent(text) is None
