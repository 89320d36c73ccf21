"""A reader of gRPC streams that costs next to nothing beside a real client: HTTP/2 frames in the clear, parsed by hand.

A Python gRPC client needs some 150 us a message, several times what the server does, and would be all that is
measured. This one knows just enough of RFC 9113 and of gRPC's framing: no flow control (its windows are never full in
a run), no compression, no reading of header fields.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import cast

from front.counted import Ask, Tally

from segue.proto.inference_pb2 import (
    GenerateRequest,
    GenerateResponse,
    SessionRequest,
    SessionResponse,
    SessionStart,
)
from segue.proto.sampling_pb2 import SamplingParams

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _SETTINGS, _PING, _GOAWAY, _WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
_END_STREAM, _ACK, _END_HEADERS = 1, 1, 4
_WINDOW_BYTES = (1 << 31) - 1
_INITIAL_WINDOW_SIZE, _MAX_FRAME_SIZE = 4, 5


class Http2Client(asyncio.Protocol):
    """One connection. ``on_message(stream, message)`` gets each gRPC message, ``on_end(stream)`` each stream's end."""

    def __init__(self, on_message: Callable[[int, bytes], None], on_end: Callable[[int], None]) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._received = b""
        self._parts: dict[int, bytes] = {}
        self._next_stream = 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses.
        settings = _INITIAL_WINDOW_SIZE.to_bytes(2, "big") + _WINDOW_BYTES.to_bytes(4, "big")
        settings += _MAX_FRAME_SIZE.to_bytes(2, "big") + ((1 << 20) + 1).to_bytes(4, "big")
        more = (_WINDOW_BYTES - 65_535).to_bytes(4, "big")
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, settings) + _frame(_WINDOW_UPDATE, 0, 0, more))

    def connection_lost(self, exc: Exception | None) -> None:
        for stream in list(self._parts):
            self._end(stream)

    def call(self, method: str, message: bytes, *, half_close: bool = True) -> int:
        """Begin a call with its first message; the stream's number."""
        stream, self._next_stream = self._next_stream, self._next_stream + 2
        self._parts[stream] = b""
        fields = (
            (b":method", b"POST"),
            (b":scheme", b"http"),
            (b":path", method.encode()),
            (b":authority", b"127.0.0.1"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"grpc-timeout", b"600S"),
        )
        # Literal fields, never indexed, without Huffman coding (RFC 7541, 6.2.3).
        block = b"".join(bytes((0x10, len(name))) + name + bytes((len(value),)) + value for name, value in fields)
        self._transport.write(_frame(_HEADERS, _END_HEADERS, stream, block))
        self.send(stream, message, half_close=half_close)
        return stream

    def send(self, stream: int, message: bytes, *, half_close: bool = False) -> None:
        """One more message. Far below 64 KiB in all until the server has read some."""
        payload = b"\x00" + len(message).to_bytes(4, "big") + message
        self._transport.write(_frame(_DATA, _END_STREAM if half_close else 0, stream, payload))

    def data_received(self, data: bytes) -> None:
        data = self._received + data if self._received else data
        at, size = 0, len(data)
        while size - at >= 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big")
            if kind == _DATA:
                self._take(stream, data[at + 9 : end])
            elif kind in (_SETTINGS, _PING) and not flags & _ACK:
                self._transport.write(_frame(kind, _ACK, 0, data[at + 9 : end] if kind == _PING else b""))
            if (kind in (_DATA, _HEADERS) and flags & _END_STREAM) or kind == _RST_STREAM:
                self._end(stream)
            at = end
        self._received = data[at:]

    def _take(self, stream: int, payload: bytes) -> None:
        if stream not in self._parts:
            return
        waiting = self._parts[stream] + payload
        at = 0
        while len(waiting) - at >= 5:
            end = at + 5 + int.from_bytes(waiting[at + 1 : at + 5], "big")
            if end > len(waiting):
                break
            self._on_message(stream, waiting[at + 5 : end])
            at = end
        self._parts[stream] = waiting[at:]

    def _end(self, stream: int) -> None:
        if self._parts.pop(stream, None) is not None:
            self._on_end(stream)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big") + payload


class _GenerateCalls:
    """``ask.streams`` calls of Generate at a time, on one connection."""

    def __init__(self, ask: Ask, tally: Tally) -> None:
        self._ask = ask
        self._tally = tally
        self._calls: dict[int, list[float]] = {}  # When asked, when the last tokens came, whether it is complete.
        self.http2 = Http2Client(self._on_message, self._on_end)

    def begin(self) -> None:
        now_s = time.monotonic()
        request = request_message(self._ask, now_s).SerializeToString()
        stream = self.http2.call("/segue.v1.Inference/Generate", request)
        self._calls[stream] = [now_s, 0.0, 0.0]

    def _on_message(self, stream: int, message: bytes) -> None:
        response = GenerateResponse.FromString(message)
        call, now_s = self._calls[stream], time.monotonic()
        self._tally.messages += 1
        self._tally.got(now_s, call[1], call[0], sum(len(choice.token_ids) for choice in response.choices))
        call[1] = now_s
        if response.HasField("usage"):
            call[2] = 1.0

    def _on_end(self, stream: int) -> None:
        call = self._calls.pop(stream)
        if call[2]:
            self._tally.finished += 1
            self.begin()
        else:
            self._tally.failed += 1
            self._tally.error = "a call ended without its last message"


def request_message(ask: Ask, now_s: float) -> GenerateRequest:
    return GenerateRequest(
        model=ask.model,
        text=f"{now_s} {ask.prompt}",
        sampling=SamplingParams(max_tokens=ask.tokens, temperature=0, ignore_eos=True),
    )


class _SessionCalls:
    """``ask.streams`` requests at a time on one call of Session."""

    def __init__(self, ask: Ask, tally: Tally) -> None:
        self._ask = ask
        self._tally = tally
        self._requests: dict[int, list[float]] = {}  # By id: when asked, when the last tokens came.
        self._last_id = 0
        self._call = 0
        self.http2 = Http2Client(self._on_message, self._on_end)

    def begin(self) -> None:
        now_s = time.monotonic()
        self._last_id += 1
        start = SessionStart(id=self._last_id, request=request_message(self._ask, now_s))
        message = SessionRequest(start=[start]).SerializeToString()
        if self._call:
            self.http2.send(self._call, message)
        else:
            self._call = self.http2.call("/segue.v1.Inference/Session", message, half_close=False)
        self._requests[self._last_id] = [now_s, 0.0]

    def _on_message(self, stream: int, message: bytes) -> None:
        response = SessionResponse.FromString(message)
        self._tally.messages += 1
        now_s = time.monotonic()
        for id_ in response.ids:
            self._got(id_, now_s, 1)
        for part in response.parts:
            self._got(part.id, now_s, sum(len(choice.token_ids) for choice in part.response.choices))
            if part.response.HasField("usage"):
                del self._requests[part.id]
                self._tally.finished += 1
                self.begin()
        for error in response.errors:
            self._fail(error.message)

    def _got(self, id_: int, now_s: float, tokens: int) -> None:
        request = self._requests[id_]
        self._tally.got(now_s, request[1], request[0], tokens)
        request[1] = now_s

    def _on_end(self, stream: int) -> None:
        self._fail("the session ended")

    def _fail(self, reason: str) -> None:
        self._tally.failed += 1
        self._tally.error = reason


async def open_calls(ask: Ask, tally: Tally) -> None:
    calls = _GenerateCalls(ask, tally) if ask.api == "grpc" else _SessionCalls(ask, tally)
    await asyncio.get_running_loop().create_connection(lambda: calls.http2, "127.0.0.1", ask.port)
    for _ in range(ask.streams):
        calls.begin()
        await asyncio.sleep(0.00025)
