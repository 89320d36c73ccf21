"""A streamed answer: from the core's deltas to the client's socket in one synchronous call."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiohttp import web

from segue.base.errors import SegueError
from segue.base.logging import get_logger
from segue.proto.inference_pb2 import ChoiceDelta
from segue.router.openai import sse, wire
from segue.router.openai.answer import Answer, Shape, resolve
from segue.router.text.tokenizer import TextCodec

_log = get_logger("openai")

# What stands before an HTTP chunk, by its size: most events are shorter than this.
_CHUNK_HEADS = tuple(b"%x\r\n" % size for size in range(1024))


class StreamAnswer(Answer):
    """The answer as server-sent events.

    ``begun`` resolves with the first event, or with ``error`` set where that came before it and may
    still become the response's status. From ``attach`` on every event goes straight to the given writer,
    without a task switch, but the last ones: ``done`` resolves with them in ``rest``, to go out in one write with the
    end of the body.
    """

    def __init__(self, shape: Shape, codec: TextCodec) -> None:
        super().__init__(shape, codec)
        loop = asyncio.get_running_loop()
        self.begun: asyncio.Future[None] = loop.create_future()
        self.done: asyncio.Future[None] = loop.create_future()
        self._chunks: sse.ChunkEncoder | None = None
        self.rest = b""
        self._waiting: list[bytes] = []
        self._write: Callable[[bytes], None] = self._hold
        self._writer: EventWriter | None = None
        self._write_text: dict[int, Callable[[str], None]] = {}  # By choice, once a writer is attached.

    def attach(self, writer: EventWriter) -> None:
        """Give the writer what has come so far, and from now on all that comes."""
        self._writer = writer
        self._write = writer.write
        if self._waiting:
            writer.write(b"".join(self._waiting))
            self._waiting.clear()

    def take_text(self, choice: int, text: str) -> None:
        if self._over:
            return
        write = self._write_text.get(choice)
        if write is not None:
            write(text)
            return
        assert self._chunks is not None  # A choice begins with a delta.
        if self._writer is not None:
            self._write_text[choice] = self._writer.text_writer(*self._chunks.parts[choice])
        self._write(self._chunks.text(choice, text))

    def let_go(self) -> None:
        super().let_go()
        self._writer, self._write = None, _drop
        self._write_text.clear()

    def _hold(self, data: bytes) -> None:
        self._waiting.append(data)
        resolve(self.begun)

    def _add(self, deltas: Sequence[tuple[int, ChoiceDelta]], *, last: bool) -> None:
        chunks = self._chunks
        if chunks is None:
            chunks = self._chunks = sse.ChunkEncoder(
                self.shape.head(self.request_id),
                self.codec,
                choices=self.shape.choices,
                logprobs=self.shape.logprobs,
                include_usage=self.shape.include_usage,
            )
        if last:
            self.rest = self._last_events(chunks, deltas)
            return
        if len(deltas) == 1:
            data = chunks.delta(*deltas[0])
        else:
            data = b"".join([chunks.delta(index, delta) for index, delta in deltas])
        if data:
            self._write(data)

    def _last_events(self, chunks: sse.ChunkEncoder, deltas: Sequence[tuple[int, ChoiceDelta]]) -> bytes:
        """With the timings: in the usage chunk where there is one, else with the last choice's end."""
        include_usage = self.shape.include_usage
        extra = None if include_usage else {"segue": self.segue()}
        parts = [chunks.delta(index, delta) for index, delta in deltas[:-1]]
        parts += [chunks.delta(index, delta, extra=extra) for index, delta in deltas[-1:]]
        if include_usage:
            parts.append(chunks.usage(self.usage(), self.segue()))
        return b"".join([*parts, sse.DONE])

    def _complete(self) -> None:
        resolve(self.begun)
        resolve(self.done)

    def _failed(self, error: SegueError) -> None:
        if self.begun.done():
            self._write(sse.error_event(error))
        else:
            self.error = error
        self._complete()


def _drop(data: bytes) -> None:
    return


class EventWriter:
    """Writes a prepared response's body straight to the transport: a task switch a token would cost half as
    much again."""

    __slots__ = ("_answer", "_chunked", "_limit_bytes", "_transport")

    def __init__(self, request: web.Request, answer: Answer, *, chunked: bool, limit_bytes: int) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError("the client went away")
        self._transport = transport
        self._answer = answer
        self._chunked = chunked
        self._limit_bytes = limit_bytes

    def write(self, data: bytes) -> None:
        transport = self._transport
        if transport.is_closing():
            return
        transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)
        if transport.get_write_buffer_size() > self._limit_bytes:
            self._abort_slow()

    def text_writer(self, before: bytes, after: bytes) -> Callable[[str], None]:
        """Writes the event of a text as :meth:`write` would, given what stands before and after its JSON string.

        Called for nearly every token there is: nothing in it is looked up or made that could be before.
        """
        transport, limit_bytes, heads = self._transport, self._limit_bytes, _CHUNK_HEADS
        chunked, encode = self._chunked, wire.encode
        constant = len(before) + len(after)
        if chunked:
            after += b"\r\n"

        def write(text: str) -> None:
            if transport.is_closing():
                return
            data = encode(text)
            if not chunked:
                transport.write(b"".join((before, data, after)))
            else:
                size = constant + len(data)
                head = heads[size] if size < len(heads) else b"%x\r\n" % size
                transport.write(b"".join((head, before, data, after)))
            if transport.get_write_buffer_size() > limit_bytes:
                self._abort_slow()

        return write

    def _abort_slow(self) -> None:
        self.abort(f"the client reads too slowly: more than {self._limit_bytes} bytes are unsent")

    @property
    def unsent_bytes(self) -> int:
        """What the client has not taken yet."""
        return self._transport.get_write_buffer_size()

    def abort(self, reason: str) -> None:
        """Drop the connection and cancel what feeds it."""
        _log.warning("stream_aborted", request_id=self._answer.request_id, reason=reason)
        self._transport.abort()
        self._answer.cancel()
