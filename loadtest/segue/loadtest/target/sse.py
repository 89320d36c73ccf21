"""Server-sent events out of bytes, however they are cut. Does no I/O."""

from __future__ import annotations


class SseError(ValueError):
    """An event larger than any token could be."""


_MAX_EVENT_BYTES = 16 << 20


class SseParser:
    """Feed it a body's bytes as they come; it gives the data of each event that is whole.

    By the standard: lines end in CR, LF or both; an event's ``data`` lines are joined by LF; an event ends with an
    empty line; comments and other fields are nothing to a load test. What ends without an empty line is dropped.
    """

    __slots__ = ("_data", "_rest", "_skip_lf")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._skip_lf = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Raises SseError for an event of more than 16 MiB."""
        # Nearly always: whole events of one line each, ended by LF. Nothing is copied twice for those.
        if not self._rest and not self._data and not self._skip_lf and b"\r" not in chunk and chunk[-2:] == b"\n\n":
            parts = chunk[:-2].split(b"\n\n")
            if all(part[:6] == b"data: " and b"\n" not in part for part in parts):
                return [part[6:] for part in parts]
        return self._feed_slowly(chunk)

    def _feed_slowly(self, chunk: bytes) -> list[bytes]:
        if self._skip_lf and chunk:
            # The CR before it may have been half of a CRLF.
            chunk = chunk.removeprefix(b"\n")
            self._skip_lf = False
        text = self._rest + chunk
        if len(text) > _MAX_EVENT_BYTES or sum(map(len, self._data)) > _MAX_EVENT_BYTES:
            raise SseError(f"an event of more than {_MAX_EVENT_BYTES} bytes")
        if text.endswith(b"\r"):
            self._skip_lf = True
        *lines, self._rest = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        events = []
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                events.append(b"\n".join(self._data))
                self._data = []
        return events

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
