"""Events come out whole, however the bytes were cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from segue.loadtest.target.sse import SseParser

lines = st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), max_size=20).map(str.encode)
ends = st.sampled_from([b"\n", b"\r", b"\r\n"])


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Events, and a stream of them with comments and other fields in between."""
    events, parts = [], []
    for _ in range(draw(st.integers(0, 5))):
        data = draw(st.lists(lines, min_size=1, max_size=3))
        events.append(b"\n".join(data))
        for line in data:
            if draw(st.booleans()):
                parts.append(draw(st.sampled_from([b": note", b"event: x", b"id: 3", b"retry"])) + draw(ends))
            # Without the space only where the line has none of its own.
            gap = b" " if line.startswith(b" ") or draw(st.booleans()) else b""
            parts.append(b"data:" + gap + line + draw(ends))
        # A bare CR after a CR-ended line is an empty line; a LF there would belong to the CR.
        parts.append(b"\r\n" if parts[-1].endswith(b"\r") else draw(ends))
    return events, b"".join(parts)


def cut(data: bytes, places: list[int]) -> list[bytes]:
    bounds = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[start:end] for start, end in pairwise(bounds)]


@given(streams(), st.lists(st.integers(0, 10_000), max_size=12))
def test_events_are_the_same_however_the_bytes_are_cut(stream: tuple[list[bytes], bytes], places: list[int]) -> None:
    events, data = stream
    parser = SseParser()

    found = [event for piece in cut(data, places) for event in parser.feed(piece)]

    assert found == events


@given(streams())
def test_events_come_out_byte_by_byte(stream: tuple[list[bytes], bytes]) -> None:
    events, data = stream
    parser = SseParser()

    assert [event for byte in data for event in parser.feed(bytes([byte]))] == events


def test_an_event_comes_out_with_its_last_byte() -> None:
    parser = SseParser()

    assert parser.feed(b'data: {"a": 1}\n') == []
    assert parser.feed(b"\n") == [b'{"a": 1}']


def test_several_events_in_one_piece() -> None:
    assert SseParser().feed(b"data: 1\n\ndata: 2\n\ndata: [DONE]\n\n") == [b"1", b"2", b"[DONE]"]


def test_an_event_that_never_ended_is_none() -> None:
    assert SseParser().feed(b"data: 1\n\ndata: 2") == [b"1"]
