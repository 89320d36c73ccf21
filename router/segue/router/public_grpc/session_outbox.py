"""What a session's client has not been sent yet: the tokens of all its requests, as one message. No I/O."""

from __future__ import annotations

import asyncio

from segue.base.errors import Overloaded, SegueError
from segue.proto.inference_pb2 import ChoiceDelta, GenerateResponse, SessionError, SessionPart, SessionResponse
from segue.router.public_grpc.merging_sink import merge

_TOKEN_BYTES = 100  # What a token takes here, apart from its text's characters.


class SessionOutbox:
    """At most one message waits: a client that reads slowly gets fewer and larger ones. Beyond ``limit_bytes`` of what
    waits, ``overrun`` is set to an error, and nothing more is taken in."""

    def __init__(self, limit_bytes: int) -> None:
        self.overrun: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.limit_bytes = limit_bytes
        self._held_bytes = 0
        self._ids: list[int] = []
        self._token_ids: list[int] = []
        self._texts: list[str] = []
        self._parts: dict[int, GenerateResponse] = {}
        self._errors: dict[int, list[SessionError]] = {}
        self._dropped: dict[int, int] = {}  # Of these ids the rows before this one are not sent.
        self._filled = asyncio.Event()

    def put_token(self, id_: int, index: int, text: str, token_id: int) -> None:
        if index or id_ in self._parts:
            delta = ChoiceDelta(index=index, text=text, token_ids=(token_id,))
            self.put_part(id_, GenerateResponse(choices=(delta,)))
            return
        self._ids.append(id_)
        self._token_ids.append(token_id)
        self._texts.append(text)
        self._count(_TOKEN_BYTES + len(text))

    def put_part(self, id_: int, response: GenerateResponse) -> None:
        known = self._parts.get(id_)
        if known is None:
            self._parts[id_] = response
        else:
            merge(known, response)
        self._count(_TOKEN_BYTES + response.ByteSize())

    def put_error(self, id_: int, error: SegueError) -> None:
        told = SessionError(
            id=id_,
            status=error.grpc_status.value[0],
            code=error.code,
            message=error.message,
            retry_after_s=error.retry_after_s if isinstance(error, Overloaded) else 0.0,
        )
        self._errors.setdefault(id_, []).append(told)
        self._count(_TOKEN_BYTES + len(error.message))

    def drop(self, id_: int) -> None:
        """Nothing that waits of this id is sent; what comes later is, being another request's.

        Its rows stay until the next message is made, which goes through all of them once, however many ids were
        dropped; until then they count as held.
        """
        self._parts.pop(id_, None)
        self._errors.pop(id_, None)
        if self._ids:
            self._dropped[id_] = len(self._ids)
            self._count(_TOKEN_BYTES)

    def wake(self) -> None:
        """Have :meth:`take` look again."""
        self._filled.set()

    async def take(self) -> SessionResponse | None:
        """What waits, as soon as there is something; None if it was woken for nothing."""
        await self._filled.wait()
        self._filled.clear()
        if self._dropped:
            self._leave_out()
        if not (self._ids or self._parts or self._errors):
            self._clear()
            return None
        message = SessionResponse(ids=self._ids, token_ids=self._token_ids, texts=self._texts)
        if self._errors:
            message.errors.extend([error for errors in self._errors.values() for error in errors])
        if self._parts:
            message.parts.extend([SessionPart(id=id_, response=part) for id_, part in self._parts.items()])
        self._clear()
        return message

    def _count(self, size_bytes: int) -> None:
        self._held_bytes += size_bytes
        if self._held_bytes <= self.limit_bytes and not self.overrun.done():
            self._filled.set()
            return
        self._clear()
        if not self.overrun.done():
            error = Overloaded(
                f"the client reads too slowly: more than {self.limit_bytes} bytes wait for it in this session; read "
                "faster, or use several sessions"
            )
            self.overrun.set_exception(error)

    def _leave_out(self) -> None:
        dropped = self._dropped
        kept = [row for row, id_ in enumerate(self._ids) if row >= dropped.get(id_, 0)]
        self._ids = [self._ids[row] for row in kept]
        self._token_ids = [self._token_ids[row] for row in kept]
        self._texts = [self._texts[row] for row in kept]

    def _clear(self) -> None:
        self._ids, self._token_ids, self._texts = [], [], []
        self._parts, self._errors, self._dropped = {}, {}, {}
        self._held_bytes = 0
