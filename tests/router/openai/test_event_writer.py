"""Events written straight to a transport: a token's text as any other event, and readers that don't read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from segue.router.openai.sse import ChunkEncoder
from segue.router.openai.stream import EventWriter
from segue.router.openai.wire import Head
from segue.router.text.tokenizer import TextCodec


class Transport:
    """Takes what is written; of all that it has taken nothing is read."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = self.aborted = False

    def is_closing(self) -> bool:
        return self.closing

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def abort(self) -> None:
        self.aborted = True


class Answer:
    request_id = "req-1"
    cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def writer_to(transport: Transport, *, chunked: bool, limit_bytes: int = 1 << 20) -> tuple[EventWriter, Answer]:
    request: Any = SimpleNamespace(transport=transport)
    answer: Any = Answer()
    return EventWriter(request, answer, chunked=chunked, limit_bytes=limit_bytes), answer


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize("text", ["a", 'said "no"\n', "é\x00😀", "x" * 900, "long " * 1000])
def test_a_token_is_written_as_its_event_would_be(codec: TextCodec, chunked: bool, text: str) -> None:
    chunks = ChunkEncoder(Head("id-1", "m", 7, True), codec, choices=2, logprobs=False, include_usage=True)
    short, long = Transport(), Transport()
    writer_to(short, chunked=chunked)[0].text_writer(*chunks.parts[1])(text)
    writer_to(long, chunked=chunked)[0].write(chunks.text(1, text))
    assert short.written == long.written


def test_nothing_is_written_to_a_client_that_goes(codec: TextCodec) -> None:
    transport = Transport()
    write = writer_to(transport, chunked=True)[0].text_writer(b"data: ", b"\n\n")
    transport.closing = True
    write("a")
    assert not transport.written


def test_a_client_that_reads_too_slowly_is_dropped_and_its_answer_cancelled() -> None:
    transport = Transport()
    writer, answer = writer_to(transport, chunked=True, limit_bytes=100)
    write = writer.text_writer(b"data: ", b"\n\n")
    write("a")
    assert (transport.aborted, answer.cancelled) == (False, False)
    write("a" * 100)
    assert (transport.aborted, answer.cancelled) == (True, True)
