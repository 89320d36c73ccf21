"""As much of HTTP/2 framing as it takes to read and to damage what gRPC sends in the clear (RFC 9113, 4.1)."""

from __future__ import annotations

from collections.abc import Callable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_HEADER_BYTES = 9
_DATA = 0


class Frames:
    """Follows one direction of a connection. ``on_data(stream, payload)`` sees each DATA frame and may change it.

    ``push`` gives back what is to be sent on: whole frames only, so a frame still incomplete waits.
    """

    def __init__(self, from_client: bool, on_data: Callable[[int, bytearray], None]) -> None:
        self._skip_bytes = len(PREFACE) if from_client else 0
        self._on_data = on_data
        self._waiting = bytearray()

    def push(self, received: bytes) -> bytes:
        self._waiting += received
        out = bytearray()
        if self._skip_bytes:
            if len(self._waiting) < self._skip_bytes:
                return b""
            out += self._take(self._skip_bytes)
            self._skip_bytes = 0
        while len(self._waiting) >= _HEADER_BYTES:
            size_bytes = int.from_bytes(self._waiting[:3], "big")
            if len(self._waiting) < _HEADER_BYTES + size_bytes:
                break
            header = self._take(_HEADER_BYTES)
            payload = self._take(size_bytes)
            if header[3] == _DATA:
                self._on_data(int.from_bytes(header[5:9], "big"), payload)
            out += header + payload
        return bytes(out)

    def _take(self, size_bytes: int) -> bytearray:
        taken = self._waiting[:size_bytes]
        del self._waiting[:size_bytes]
        return taken


def grpc_messages(data: bytes) -> list[bytes]:
    """The messages of one stream's DATA, uncompressed; an incomplete one at the end is left out."""
    messages = []
    while len(data) >= 5 and len(data) >= 5 + (size_bytes := int.from_bytes(data[1:5], "big")):
        messages.append(data[5 : 5 + size_bytes])
        data = data[5 + size_bytes :]
    return messages
