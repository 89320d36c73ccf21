"""Readers of server-sent events that cost next to nothing: plain protocols that count events."""

from __future__ import annotations

import asyncio
import json
import time
from functools import partial
from typing import cast

from front.counted import Ask, Tally


class SseReader(asyncio.Protocol):
    """One connection: asks, reads to the end, asks again."""

    def __init__(self, ask: Ask, number: int, tally: Tally) -> None:
        self._ask = ask
        self._number = number
        self._tally = tally
        self._asked_s = 0.0
        self._last_s = 0.0
        self._tail = b""
        self._whole = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses.
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is not None:
            self._fail(repr(exc))

    def data_received(self, data: bytes) -> None:
        if not self._ask.stream:
            self._take_whole(data)
            return
        # An event may be cut anywhere; its opening mark is counted where it ends.
        joined = self._tail + data
        events = joined.count(b"data: {") - self._tail.count(b"data: {")
        tally = self._tally
        if not self._last_s and b"HTTP/1.1 " in joined[:9] and not joined.startswith(b"HTTP/1.1 200"):
            self._fail(joined[:300].decode("latin-1"))
            return
        ended = b"data: [DONE]" in joined
        self._tail = b"" if ended else joined[-12:]
        if events:
            now_s = time.monotonic()
            tally.messages += 1
            tally.got(now_s, self._last_s, self._asked_s, events)
            self._last_s = now_s
        if ended:
            tally.finished += 1
            # The end of the chunked body may still be on its way: leave it to be skipped with the next head.
            asyncio.get_running_loop().call_soon(self._send)

    def _take_whole(self, data: bytes) -> None:
        self._whole += data
        head, found, body = self._whole.partition(b"\r\n\r\n")
        if not found:
            return
        if not head.startswith(b"HTTP/1.1 200"):
            self._fail(self._whole[:300].decode("latin-1"))
            return
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        if len(body) < length:
            return
        self._whole = b""
        self._tally.got(time.monotonic(), 0.0, self._asked_s, self._ask.tokens)
        self._tally.finished += 1
        self._send()

    def _fail(self, reason: str) -> None:
        self._tally.failed += 1
        self._tally.error = reason
        self._transport.abort()

    def _send(self) -> None:
        if self._transport.is_closing():
            return
        ask = self._ask
        text = f"{self._number} {time.monotonic_ns()} {ask.prompt}"
        asked = {"model": ask.model, "max_tokens": ask.tokens, "temperature": 0, "ignore_eos": True}
        prompt = {"messages": [{"role": "user", "content": text}]} if "chat" in ask.path else {"prompt": text}
        body = json.dumps(asked | prompt | {"stream": ask.stream}).encode()
        head = (
            f"POST {ask.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        self._last_s, self._asked_s, self._tail = 0.0, time.monotonic(), b""
        self._transport.write(head.encode() + body)


async def open_readers(ask: Ask, tally: Tally) -> None:
    """All connections; a quarter of a millisecond apart, as clients don't come all at once."""
    loop = asyncio.get_running_loop()
    for number in range(ask.streams):
        await loop.create_connection(partial(SseReader, ask, number, tally), "127.0.0.1", ask.port)
        await asyncio.sleep(0.00025)
