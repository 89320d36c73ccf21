"""The consumer's end of one hand-off, without I/O: what it may do next, and what it tells the producer at the end.

Used by both transports: over gRPC the producer sends chunks, with NIXL the consumer reads for itself and asks for
digests afterwards. Not thread-safe; its owner locks.
"""

from __future__ import annotations

from segue.kv_transfer.handoff import Event, Role, State, View

CANCELLED = "CANCELLED: the request has ended"

_REASONS = {State.VERIFIED: "acknowledged", State.REVOKED: "cancelled"}


class ConsumerClaim:
    """``error`` says why nothing may be read, if so; ``corrupt`` that the bytes were to blame."""

    __slots__ = ("_view", "corrupt", "error")

    def __init__(self) -> None:
        self._view = View(Role.CONSUMER, State.OFFERED)
        self.error = ""
        self.corrupt = False

    @property
    def state(self) -> State:
        return self._view.state

    @property
    def over(self) -> bool:
        return self._view.over

    @property
    def may_write(self) -> bool:
        """Whether what arrives may be put into the engine's blocks."""
        return self._view.may_write

    @property
    def may_read(self) -> bool:
        """Whether the engine may read its blocks: everything arrived and was right."""
        return self._view.may_read

    def begin(self) -> bool:
        """Present the ticket; False if it must not be, because the request has ended or was begun before."""
        return self._view.cause(Event.CLAIM)

    def receive(self) -> bool:
        """Bytes arrive, or are about to; whether they may be written."""
        self._view.hear(Event.SEND)
        return self._view.may_write

    def verify(self) -> bool:
        """Everything has arrived and is right; whether it may be read now (not if the request has ended meanwhile)."""
        return self._view.cause(Event.VERIFY)

    def cancel(self) -> None:
        """The request has ended: nothing more is written, nothing is read."""
        if self._view.cause(Event.REVOKE):
            self.error = CANCELLED

    def fail(self, error: str, corrupt: bool = False) -> None:
        """The claim was refused, the link broke, or what arrived is wrong. The first reason counts."""
        if self._view.cause(Event.FAIL):
            self.error, self.corrupt = error, corrupt

    def finish(self) -> str:
        """End it if it hasn't ended; the reason to give the producer with the release."""
        reason = _REASONS.get(self.state, "failed")
        if self.may_read:
            self._view.cause(Event.ACKNOWLEDGE)
        else:
            self.fail("INTERNAL: the claim was given up before it was verified")
        return reason
