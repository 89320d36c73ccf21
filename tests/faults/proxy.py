"""A TCP proxy that can stall, cut, slow down, divert or damage what passes: the bad link of the fault tests.

It runs on a thread of its own, so that it serves synchronous and asynchronous tests alike. It stands in front of a
producer's ``KvTransfer`` (workers advertise its address with ``--advertise-kv``) and knows enough of HTTP/2 to flip a
byte inside a message, and to remember which tickets were claimed through it.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self, TypeVar

from google.protobuf.message import DecodeError

from segue.proto.kv_transfer_pb2 import PullRequest
from tests.faults.http2 import Frames, grpc_messages

_READ_BYTES = 1 << 16
# Below it a DATA frame may be all protobuf fields; above, its middle is KV.
_LEAST_PAYLOAD_BYTES = 1024

T = TypeVar("T")


class LinkProxy:
    """Forwards ``address`` to ``target`` (both host:port). Methods may be called from any thread."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.address = ""
        self.delay_s = 0.0
        self.pulls: list[PullRequest] = []
        self.corrupted_bytes = 0
        self.passed_bytes = 0  # From the server to the client, since the last ``hold_after``.
        self.held = threading.Event()  # Something waits that would have gone on.
        self._refusing = False
        self._to_corrupt = 0
        # How many bytes may still pass; None: any number.
        self._to_server: int | None = None
        self._to_client: int | None = None
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="link-proxy", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self.address = self._run(self._listen())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    # What the link does

    def release(self) -> None:
        """What was held goes on; nothing else changes."""

        async def release() -> None:
            self._to_server = self._to_client = None
            self.held.clear()
            self._wake()

        self._run(release())

    def heal(self) -> None:
        """Everything passes again, undamaged."""
        self._refusing, self._to_corrupt, self.delay_s = False, 0, 0.0
        self.release()

    def hold(self) -> None:
        """Stall, without a word: connections stay, new ones are accepted, nothing passes."""

        async def hold() -> None:
            self._to_server = self._to_client = 0
            self.held.clear()

        self._run(hold())

    def hold_after(self, to_client_bytes: int) -> None:
        """Stall what the server sends after so many bytes more."""

        async def hold_after() -> None:
            self._to_server, self._to_client = None, to_client_bytes
            self.passed_bytes = 0
            self.held.clear()

        self._run(hold_after())

    def cut(self) -> None:
        """Reset every connection and every new one, until ``heal``."""

        async def cut() -> None:
            self._refusing = True
            self._reset()

        self._run(cut())

    def reset(self) -> None:
        """Reset every connection; new ones are welcome."""

        async def reset() -> None:
            self._reset()

        self._run(reset())

    def divert(self, target: str) -> None:
        """Another server behind this address, for connections that have passed nothing yet; the others are reset."""
        if target == self.target:
            return
        self.target = target

        async def reset_dialled() -> None:
            self._reset(dialled_only=True)

        self._run(reset_dialled())

    def corrupt(self, frames: int) -> None:
        """Flip a byte in the middle of so many DATA frames of the server's; ``corrupted_bytes`` counts anew."""
        self.corrupted_bytes = 0
        self._to_corrupt = frames

    # Inside the thread

    async def _listen(self) -> str:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        return f"{host}:{port}"

    async def _close(self) -> None:
        self._server.close()
        self._reset()

    def _reset(self, dialled_only: bool = False) -> None:
        for connection in list(self._connections):
            if connection.dialled or not dialled_only:
                connection.abort()

    def _wake(self) -> None:
        for connection in self._connections:
            connection.wake.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            _reset(writer)
            return
        connection = _Connection(self, reader, writer)
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            connection.abort()
            self._connections.discard(connection)

    async def allowed(self, connection: _Connection, to_client: bool, wanted_bytes: int) -> int:
        """How many bytes may go now, at least one; waits for it."""
        while True:
            budget = self._to_client if to_client else self._to_server
            if budget is None:
                granted = wanted_bytes
                break
            if budget > 0:
                granted = min(budget, wanted_bytes)
                if to_client:
                    self._to_client = budget - granted
                else:
                    self._to_server = budget - granted
                break
            self.held.set()
            connection.wake.clear()
            await connection.wake.wait()
        if to_client:
            self.passed_bytes += granted
        return granted

    def on_client_data(self, _: int, payload: bytearray) -> None:
        for message in grpc_messages(bytes(payload)):
            try:
                pull = PullRequest.FromString(message)
            except DecodeError:
                continue
            # Only a claim has a layout; the other requests of the service parse as well.
            if pull.HasField("layout"):
                self.pulls.append(pull)

    def on_server_data(self, _: int, payload: bytearray) -> None:
        if self._to_corrupt and len(payload) >= _LEAST_PAYLOAD_BYTES:
            self._to_corrupt -= 1
            payload[len(payload) // 2] ^= 0x40
            self.corrupted_bytes += 1

    def _run(self, work: Awaitable[T]) -> T:
        async def wait() -> T:
            return await work

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result(30)


class _Connection:
    """One client's connection and, as soon as something may pass, ours to the server."""

    def __init__(self, proxy: LinkProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.wake = asyncio.Event()
        self._proxy = proxy
        self._client = reader, writer
        self._writers = [writer]

    @property
    def dialled(self) -> bool:
        return len(self._writers) > 1

    def abort(self) -> None:
        for writer in self._writers:
            _reset(writer)

    async def run(self) -> None:
        proxy = self._proxy
        reader, writer = self._client
        try:
            first = await reader.read(_READ_BYTES)
            if not first:
                return
            # Dialled only now: a link that was diverted while it stalled leads to the new server.
            await proxy.allowed(self, to_client=False, wanted_bytes=0)
            host, _, port = proxy.target.rpartition(":")
            server_reader, server_writer = await asyncio.open_connection(host, int(port))
            self._writers.append(server_writer)
            async with asyncio.TaskGroup() as tasks:
                to_server = Frames(True, proxy.on_client_data).push
                tasks.create_task(self._pump(reader, server_writer, to_server, to_client=False, first=first))
                to_client = Frames(False, proxy.on_server_data).push
                tasks.create_task(self._pump(server_reader, writer, to_client, to_client=True))
        except (OSError, ExceptionGroup):
            return  # One side is gone; ``abort`` tells the other.

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        through: Callable[[bytes], bytes],
        to_client: bool,
        first: bytes = b"",
    ) -> None:
        while data := first or await reader.read(_READ_BYTES):
            first = b""
            data = through(data)
            if self._proxy.delay_s:
                await asyncio.sleep(self._proxy.delay_s)
            while data:
                granted = await self._proxy.allowed(self, to_client, len(data))
                writer.write(data[:granted])
                data = data[granted:]
                await writer.drain()
        raise ConnectionResetError("one side has closed")


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST rather than FIN, as a dead machine or a firewall would."""
    sock = writer.get_extra_info("socket")
    if sock is not None and sock.fileno() >= 0:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def wait_until_held(proxies: list[LinkProxy], within_s: float) -> None:
    """Until one of the links holds something back."""
    until_s = time.monotonic() + within_s
    while not any(proxy.held.is_set() for proxy in proxies):
        if time.monotonic() > until_s:
            raise TimeoutError(f"no link held anything back within {within_s:g} s")
        time.sleep(0.002)
