"""A lean HTTP/1.1 client for streamed answers: bytes are timed where they arrive, without a task switch.

Parsing is httptools' (Node's parser). A general client wakes a task for each chunk; at some ten thousand tokens a
second those wake-ups are most of what a load generator does, and they delay its clock.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools


class HttpFault(Exception):
    """Base of what can go wrong on the way."""


class ConnectFailed(HttpFault):
    """No connection."""


class ConnectionBroken(HttpFault):
    """It ended before the answer did."""


class TimedOut(HttpFault):
    """The answer was not whole in time."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where requests go. ``base_path`` comes before every path."""

    host: str
    port: int
    tls: bool
    base_path: str

    @classmethod
    def parse(cls, url: str) -> Origin:
        """Raises ValueError for what is no http or https URL."""
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no address of a server; write http://HOST:PORT or https://HOST")
        tls = parts.scheme == "https"
        base_path = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if tls else 80), tls, base_path)

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


OnBody = Callable[[int, bytes], None]
"""Called with the status and some bytes of the body, as they come."""


class _Connection(asyncio.Protocol):
    """One request at a time. Callbacks named ``on_...`` are httptools'."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport | None = None
        self.done: asyncio.Future[int] | None = None
        self.answered = False  # Has a byte of the current answer come?
        self.reusable = True
        self._fault: HttpFault | None = None

    def begin(self, data: bytes, on_body: OnBody, timeout_s: float) -> asyncio.Future[int]:
        """Send a request. The future gives the status when the answer is whole, or raises HttpFault."""
        transport = self._transport
        self.answered = False
        self._on_body = on_body
        self._parser = httptools.HttpResponseParser(self)
        self.done = self._loop.create_future()
        self._timer = self._loop.call_later(timeout_s, self._time_out, timeout_s)
        if transport.is_closing():
            self._finish(ConnectionBroken("the server had closed the connection"))
        else:
            transport.write(data)
        return self.done

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()

    @property
    def _transport(self) -> asyncio.Transport:
        assert self.transport is not None, "begin() before the connection was made"
        return self.transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.answered = True
        if self.done is None or self.done.done():
            self.reusable = False  # Bytes that nobody asked for.
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # The parser wraps what our own callbacks raise, too.
            cause = error.__context__ if error.__context__ is not None else error
            self._finish(ConnectionBroken(f"no HTTP, or none that can be read: {type(cause).__name__}: {cause}"))

    def on_body(self, body: bytes) -> None:
        self._on_body(self._parser.get_status_code(), body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            return  # 100 Continue and the like: the answer is still to come.
        self.reusable = self._parser.should_keep_alive()
        self._finish(status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.reusable = False
        self._finish(ConnectionBroken(f"the connection broke off: {exc}" if exc else "the server ended the connection"))

    def eof_received(self) -> None:
        """The transport closes itself."""

    def _time_out(self, timeout_s: float) -> None:
        self._finish(TimedOut(f"no whole answer after {timeout_s:g} s"))

    def _finish(self, result: int | HttpFault) -> None:
        done = self.done
        if done is None or done.done():
            return
        self._timer.cancel()
        if isinstance(result, HttpFault):
            self.reusable = False
            done.set_exception(result)
        else:
            done.set_result(result)


class HttpClient:
    """Keeps connections that the server keeps, and opens as many as requests need: nothing waits for one."""

    def __init__(self, origin: Origin, headers: Mapping[str, str], connect_timeout_s: float = 10.0) -> None:
        self._origin = origin
        self._tls = ssl.create_default_context() if origin.tls else None
        self._connect_timeout_s = connect_timeout_s
        self._idle: list[_Connection] = []
        fixed = {"Host": origin.authority, "Content-Type": "application/json", "Accept": "text/event-stream", **headers}
        self._head = "".join(f"{_clean(name)}: {_clean(value)}\r\n" for name, value in fixed.items())

    def encode(self, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        """A POST as it goes out."""
        own = "".join(f"{_clean(name)}: {_clean(value)}\r\n" for name, value in headers.items())
        head = f"POST {self._origin.base_path}{path} HTTP/1.1\r\n{self._head}{own}Content-Length: {len(body)}\r\n\r\n"
        return head.encode("latin-1") + body

    async def send(self, data: bytes, on_body: OnBody, timeout_s: float) -> int:
        """The answer's status, once it is whole. Raises HttpFault.

        A kept connection that the server closes just as it is used again says nothing of the server: then the request
        goes out once more, on a new connection.
        """
        while self._idle:
            connection = self._idle.pop()
            if not connection.reusable:
                continue
            try:
                return await self._exchange(connection, data, on_body, timeout_s)
            except ConnectionBroken:
                if connection.answered:
                    raise
                break
        return await self._exchange(await self._connect(), data, on_body, timeout_s)

    async def _exchange(self, connection: _Connection, data: bytes, on_body: OnBody, timeout_s: float) -> int:
        try:
            status = await connection.begin(data, on_body, timeout_s)
        except BaseException:  # Raised on: whatever broke, cancellation included, what is on the wire is unknown.
            connection.abort()
            raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.abort()
        return status

    async def _connect(self) -> _Connection:
        origin = self._origin
        loop = asyncio.get_running_loop()
        opening = loop.create_connection(_Connection, origin.host, origin.port, ssl=self._tls)
        try:
            _, connection = await asyncio.wait_for(opening, self._connect_timeout_s)
        except TimeoutError:
            raise ConnectFailed(f"no connection to {origin.authority} within {self._connect_timeout_s:g} s") from None
        except OSError as error:
            raise ConnectFailed(f"no connection to {origin.authority}: {error}") from None
        return connection

    async def close(self) -> None:
        for connection in self._idle:
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)


def _clean(text: str) -> str:
    if "\r" in text or "\n" in text:
        raise ValueError(f"header {text!r} holds a line break")
    return text
