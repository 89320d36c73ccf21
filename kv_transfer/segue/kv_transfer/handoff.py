"""The hand-off of one request's KV cache, as a table-driven state machine without I/O.

Theory of operation
-------------------
A hand-off has one *producer* (a prefill worker's engine) and at most one *consumer* (a decode worker's). The
producer's blocks are its own until it has *offered* them under a ticket, and stay allocated from then on until the
hand-off is over, which is the one moment they may be freed. A ticket is claimed once: the claim moves the hand-off
out of ``OFFERED``, so a second claim finds no transition and is refused. The consumer may let its engine read what
it received only after it has verified every digest; its acknowledgement is what ends the hand-off well.

Whatever else happens ends it too, and frees the blocks just the same: nobody wants them any more (``REVOKE``), the
lease ran out (``EXPIRE``), or one side broke (``FAIL``). Once over, a hand-off stays over: late events find no
transition and change nothing.

The table below is the whole protocol. An event that has no row in the present state is not an error of the machine:
:meth:`Handoff.on` answers ``False`` and the caller refuses whatever asked for it.
"""

from __future__ import annotations

import enum
from types import MappingProxyType


class State(enum.Enum):
    RESERVED = "reserved"  # Both workers are chosen; the request waits for the producer.
    COMPUTING = "computing"  # The producer computes the prompt.
    OFFERED = "offered"  # A ticket is out; the lease runs.
    CLAIMED = "claimed"  # The consumer has presented the ticket.
    TRANSFERRING = "transferring"  # Blocks are on their way.
    VERIFIED = "verified"  # The consumer has checked every digest.
    RELEASED = "released"  # Over, handed over.
    REVOKED = "revoked"  # Over: nobody wants it any more.
    EXPIRED = "expired"  # Over: the lease ran out.
    FAILED = "failed"  # Over: a side or the link broke.


class Event(enum.Enum):
    START = "start"
    OFFER = "offer"
    CLAIM = "claim"
    SEND = "send"
    VERIFY = "verify"
    ACKNOWLEDGE = "acknowledge"
    REVOKE = "revoke"
    EXPIRE = "expire"
    FAIL = "fail"


OVER = frozenset({State.RELEASED, State.REVOKED, State.EXPIRED, State.FAILED})

TABLE = MappingProxyType(
    {
        (State.RESERVED, Event.START): State.COMPUTING,
        (State.COMPUTING, Event.OFFER): State.OFFERED,
        (State.OFFERED, Event.CLAIM): State.CLAIMED,
        (State.CLAIMED, Event.SEND): State.TRANSFERRING,
        (State.TRANSFERRING, Event.VERIFY): State.VERIFIED,
        (State.VERIFIED, Event.ACKNOWLEDGE): State.RELEASED,
        # The producer does not see the consumer verify; the acknowledgement says so.
        (State.TRANSFERRING, Event.ACKNOWLEDGE): State.RELEASED,
        # The consumer had every block in its own prefix cache: it acknowledges without a transfer.
        (State.OFFERED, Event.ACKNOWLEDGE): State.RELEASED,
    }
    | {(state, Event.REVOKE): State.REVOKED for state in State if state not in OVER}
    | {(state, Event.FAIL): State.FAILED for state in State if state not in OVER}
    # Also while blocks are on their way: a sender looks at the state after it has read a chunk and before it sends it,
    # so what was read from blocks that may have been freed meanwhile never leaves.
    | {(state, Event.EXPIRE): State.EXPIRED for state in State if state not in OVER}
)


class Handoff:
    """One hand-off's state. Not thread-safe; its owner locks."""

    __slots__ = ("state",)

    def __init__(self, state: State = State.RESERVED) -> None:
        self.state = state

    def on(self, event: Event) -> bool:
        """Take ``event``; whether the present state has a transition for it."""
        successor = TABLE.get((self.state, event))
        if successor is None:
            return False
        self.state = successor
        return True

    @property
    def over(self) -> bool:
        """Whether the producer may free the blocks."""
        return self.state in OVER
