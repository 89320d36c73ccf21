"""An OpenAI server without an engine, for routers that proxy one: every stream gets a token at a set cadence.

python -m front.mock --port 8000 --cadence-ms 5 --model NAME

A plain protocol on uvloop, so that it takes as little as possible of the machine that it shares with what is measured.
"""

from __future__ import annotations

import argparse
import asyncio
import json
from typing import cast

import uvloop

_WORD = " word"
_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class Backend:
    """The streams under way and their one timer."""

    def __init__(self, model: str, cadence_s: float) -> None:
        self.model = model
        self._cadence_s = cadence_s
        self._streams: dict[_Stream, None] = {}

    def add(self, stream: _Stream) -> None:
        if stream.step():
            self._streams[stream] = None

    def remove(self, stream: _Stream) -> None:
        self._streams.pop(stream, None)

    async def tick(self) -> None:
        loop = asyncio.get_running_loop()
        at_s = loop.time()
        while True:
            at_s = max(at_s + self._cadence_s, loop.time())
            await asyncio.sleep(at_s - loop.time())
            for stream in [stream for stream in self._streams if not stream.step()]:
                self.remove(stream)


class _Stream:
    """One answer: an event a tick, built once, then the end."""

    def __init__(self, transport: asyncio.Transport, number: int, model: str, chat: bool, tokens: int) -> None:
        self._transport = transport
        self._left = tokens
        self._first: bytes | None = _chunk(_event(number, model, chat, opens=True))
        self._event = _chunk(_event(number, model, chat))
        last = _event(number, model, chat, finish="length")
        self._end = _chunk(last) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"

    def step(self) -> bool:
        """Write the next token; False if it was the last one or nobody reads any more."""
        if self._transport.is_closing():
            return False
        self._left -= 1
        if self._left <= 0:
            self._transport.write(self._end)
            return False
        data, self._first = self._first or self._event, None
        self._transport.write(data)
        return True


def _event(number: int, model: str, chat: bool, *, opens: bool = False, finish: str | None = None) -> bytes:
    choice: dict[str, object]
    if chat:
        delta = {"role": "assistant", "content": _WORD} if opens else {"content": _WORD}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        name, kind = f"chatcmpl-{number}", "chat.completion.chunk"
    else:
        choice = {"index": 0, "text": _WORD, "logprobs": None, "finish_reason": finish}
        name, kind = f"cmpl-{number}", "text_completion"
    value = {"id": name, "object": kind, "created": 1, "model": model, "choices": [choice]}
    return b"data: " + json.dumps(value, separators=(",", ":")).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Connection(asyncio.Protocol):
    """One connection, kept open; requests come one after another."""

    _numbers = 0

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._read = b""
        self._stream: _Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclasses.

    def connection_lost(self, exc: Exception | None) -> None:
        if self._stream is not None:
            self._backend.remove(self._stream)

    def data_received(self, data: bytes) -> None:
        self._read += data
        while (end := self._read.find(b"\r\n\r\n")) >= 0:
            head, rest = self._read[:end].decode("latin-1"), self._read[end + 4 :]
            lines = head.split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in lines[1:] if ": " in line)
            if "chunked" in headers.get("transfer-encoding", ""):
                body_end = rest.find(b"0\r\n\r\n")
                if body_end < 0:
                    return
                body, self._read = _unchunk(rest[:body_end]), rest[body_end + 5 :]
            else:
                length = int(headers.get("content-length", "0"))
                if len(rest) < length:
                    return
                body, self._read = rest[:length], rest[length:]
            self._answer(lines[0].split(" ")[1], body)

    def _answer(self, path: str, body: bytes) -> None:
        if not body:
            self._write_json(_facts(path, self._backend.model))
            return
        asked = json.loads(body)
        chat = "chat" in path
        if not asked.get("stream"):
            self._write_json(_whole(self._backend.model, chat, asked.get("max_tokens", 16)))
            return
        _Connection._numbers += 1
        self._transport.write(_HEAD)
        self._stream = _Stream(
            self._transport, _Connection._numbers, self._backend.model, chat, asked.get("max_tokens", 16)
        )
        self._backend.add(self._stream)

    def _write_json(self, value: object) -> None:
        body = json.dumps(value).encode()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode() + body)


def _unchunk(data: bytes) -> bytes:
    body = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        body, data = body + rest[: int(size, 16)], rest[int(size, 16) + 2 :]
    return body


def _facts(path: str, model: str) -> object:
    """What routers ask of a back end before they use it."""
    if path.endswith("/models"):
        model_facts = {"id": model, "object": "model", "owned_by": "mock", "max_model_len": 131072}
        return {"object": "list", "data": [model_facts]}
    return {"status": "ok", "model_path": model, "version": "0.0"}


def _whole(model: str, chat: bool, tokens: int) -> object:
    text = _WORD * tokens
    content = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
    usage = {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": 8 + tokens}
    choice = {"index": 0, **content, "finish_reason": "length"}
    head = {"id": "cmpl-0", "object": "text_completion", "created": 1, "model": model}
    return {**head, "choices": [choice], "usage": usage}


async def _serve(options: argparse.Namespace) -> None:
    backend = Backend(options.model, options.cadence_ms / 1e3)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(backend), "127.0.0.1", options.port, backlog=1024)
    async with server:
        await backend.tick()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--cadence-ms", type=float, required=True)
    uvloop.run(_serve(parser.parse_args()))


if __name__ == "__main__":
    main()
