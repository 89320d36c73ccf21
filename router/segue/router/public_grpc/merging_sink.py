"""What a gRPC client has not taken yet, as one message."""

from __future__ import annotations

import asyncio

from segue.base.errors import Overloaded, SegueError
from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse
from segue.router.service import Handle

_LAST = {"usage", "timings", "cost", "decision"}  # Of the last message.
_TOKEN_BYTES = 80  # What an id and its text take here, apart from the text's characters.


class MergingSink:
    """A :class:`~segue.router.service.ResponseSink` that merges what waits: a slow reader gets fewer, larger messages.

    Tokens become a message only when one is taken. What waits is bounded by ``limit_bytes`` of memory: beyond it the
    answer ends with an error and ``handle``, to be set, is cancelled.
    """

    def __init__(self, limit_bytes: int = 1 << 30) -> None:
        self._limit_bytes = limit_bytes
        self.handle: Handle | None = None
        self._head = GenerateResponse()
        self._waiting: GenerateResponse | None = None
        self._tokens: dict[int, _Tokens] = {}  # By choice, behind what is in _waiting.
        self._held_bytes = 0
        self._error: SegueError | None = None
        self._changed = asyncio.Event()

    def on_token(self, index: int, text: str, token_id: int) -> None:
        if self._error is not None:
            return
        tokens = self._tokens.get(index)
        if tokens is None:
            tokens = self._tokens[index] = _Tokens()
        tokens.texts.append(text)
        tokens.ids.append(token_id)
        self._count(_TOKEN_BYTES + len(text))

    def on_delta(self, response: GenerateResponse) -> None:
        if self._error is not None:
            return
        self._take_tokens()
        if self._waiting is None:
            self._waiting = response
        else:
            merge(self._waiting, response)
        self._count(_TOKEN_BYTES + response.ByteSize())

    def on_error(self, error: SegueError) -> None:
        if self._error is None:
            self._error = error
        self._changed.set()

    def close(self) -> None:
        """Cancel what feeds it, if it still runs."""
        if self.handle is not None:
            self.handle.cancel()

    async def take(self) -> GenerateResponse:
        """What has come since the last call, as soon as there is something. Raises the error that ended it."""
        while self._waiting is None and not self._tokens:
            await self._change()
        return self._taken()

    async def take_whole(self) -> GenerateResponse:
        """The whole answer, once it is finished."""
        while self._waiting is None or not self._waiting.HasField("usage"):
            await self._change()
        return self._taken()

    async def _change(self) -> None:
        """Until something comes. Raises the error that ended it."""
        if self._error is not None:
            raise self._error
        self._changed.clear()
        await self._changed.wait()

    def _taken(self) -> GenerateResponse:
        self._take_tokens()
        response, self._waiting, self._held_bytes = self._waiting, None, 0
        assert response is not None
        if not self._head.request_id:
            head = GenerateResponse(
                request_id=response.request_id, request_label=response.request_label, model=response.model
            )
            self._head = head
        return response

    def _take_tokens(self) -> None:
        """Make of what has come as tokens a part of the message that waits."""
        if not self._tokens:
            return
        part = self._waiting if self._waiting is not None else GenerateResponse()
        if self._waiting is None:
            part.CopyFrom(self._head)
        choices = [
            ChoiceDelta(index=index, text="".join(tokens.texts), token_ids=tokens.ids)
            for index, tokens in self._tokens.items()
        ]
        self._tokens = {}
        if self._waiting is None:
            part.choices.extend(choices)
            self._waiting = part
        else:
            merge(part, GenerateResponse(choices=choices))

    def _count(self, size_bytes: int) -> None:
        self._held_bytes += size_bytes
        if self._held_bytes > self._limit_bytes and self._error is None:
            self._overrun()
        self._changed.set()

    def _overrun(self) -> None:
        self._waiting, self._tokens = None, {}
        self._error = Overloaded(
            f"the client reads too slowly: more than {self._limit_bytes} bytes of its answer wait; read faster, or ask "
            "for less at a time"
        )
        self.close()


class _Tokens:
    """One choice's tokens."""

    __slots__ = ("ids", "texts")

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.ids: list[int] = []


def merge(into: GenerateResponse, later: GenerateResponse) -> None:
    """Join a later part of the same answer onto an earlier one."""
    by_index = {choice.index: choice for choice in into.choices}
    for delta in later.choices:
        choice = by_index.get(delta.index)
        if choice is None:
            into.choices.append(delta)
            continue
        text = choice.text + delta.text
        choice.MergeFrom(delta)  # Repeated fields append; the finish takes the later value.
        choice.text = text
    for name in ("request_id", "request_label", "model"):  # Of nothing but tokens, none is made.
        if not getattr(into, name):
            setattr(into, name, getattr(later, name))
    for field, value in later.ListFields():
        if field.name in _LAST:
            getattr(into, field.name).CopyFrom(value)
