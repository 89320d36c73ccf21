"""The hand-off of one request's KV cache, as a table-driven state machine without I/O.

Theory of operation
-------------------
A hand-off has one *producer* (the engine that holds the blocks: a prefill worker's, or a decode worker's whose running
request moves), at most one *consumer* (a decode worker's engine) and the *router* that carries the ticket between them.
Each of the three keeps a view of its own over the one table below. A view moves by what its owner *causes* and by what
it *hears* of the others; the link between them may lose, delay, repeat and reorder what is heard, so views differ for a
while, and what must be safe must be safe whatever was lost:

- The producer's blocks are its own until it has *offered* them under a ticket, and stay allocated from then on until
  its view is over, which is the one moment they may be freed. Only its own clock judges the lease.
- A ticket is claimed once: the claim moves the producer's view out of ``OFFERED``, so a second claim finds no
  transition and is refused.
- The consumer writes what arrives only while its view is ``CLAIMED`` or ``TRANSFERRING``, and lets its engine read it
  only from ``VERIFIED`` on, which it enters when every digest that was asked for is right. Its acknowledgement is what
  ends the hand-off well.
- The router sees neither claim nor transfer. It takes a ticket for claimed once it has given it to a consumer, keeps
  the lease alive as long as the request is, and revokes the ticket when the request ends some other way.

Whatever else happens ends the hand-off too, and frees the blocks just the same: nobody wants them any more
(``REVOKE``), the lease ran out (``EXPIRE``), or one side broke (``FAIL``). Once over, a view stays over: late events
find no transition and change nothing. What nobody is left to say, the lease says.

The table is the whole protocol; ``docs/handoff.md`` shows it as a diagram made from it. An event that has no row in the
present state is not an error of the machine: :meth:`Handoff.on` answers ``False`` and the caller refuses whatever asked
for it. Causing an event that is another role's to cause is an error in our own code, and raises.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
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


class Role(enum.Enum):
    PRODUCER = "producer"
    CONSUMER = "consumer"
    ROUTER = "router"


OVER = frozenset({State.RELEASED, State.REVOKED, State.EXPIRED, State.FAILED})

TABLE = MappingProxyType(
    {
        (State.RESERVED, Event.START): State.COMPUTING,
        (State.COMPUTING, Event.OFFER): State.OFFERED,
        (State.OFFERED, Event.CLAIM): State.CLAIMED,
        (State.CLAIMED, Event.SEND): State.TRANSFERRING,
        (State.TRANSFERRING, Event.VERIFY): State.VERIFIED,
        (State.VERIFIED, Event.ACKNOWLEDGE): State.RELEASED,
        # The producer does not see the consumer verify, nor, when the consumer reads for itself (NIXL), the transfer;
        # the router sees neither. The acknowledgement says so. A consumer can't cause it here: see HEARD_ONLY.
        (State.TRANSFERRING, Event.ACKNOWLEDGE): State.RELEASED,
        (State.CLAIMED, Event.ACKNOWLEDGE): State.RELEASED,
        # The consumer had every block in its own prefix cache: it acknowledges without a transfer.
        (State.OFFERED, Event.ACKNOWLEDGE): State.RELEASED,
    }
    | {(state, Event.REVOKE): State.REVOKED for state in State if state not in OVER}
    | {(state, Event.FAIL): State.FAILED for state in State if state not in OVER}
    # Also while blocks are on their way: a sender looks at the state after it has read a chunk and before it sends it,
    # so what was read from blocks that may have been freed meanwhile never leaves.
    | {(state, Event.EXPIRE): State.EXPIRED for state in State if state not in OVER}
)

# Who may cause what. Everybody else only hears of it.
CAUSES: Mapping[Role, frozenset[Event]] = MappingProxyType(
    {
        # A producer revokes when it leaves with offers that nobody will claim any more.
        Role.PRODUCER: frozenset({Event.START, Event.OFFER, Event.SEND, Event.EXPIRE, Event.REVOKE, Event.FAIL}),
        Role.CONSUMER: frozenset({Event.CLAIM, Event.VERIFY, Event.ACKNOWLEDGE, Event.REVOKE, Event.FAIL}),
        Role.ROUTER: frozenset({Event.REVOKE, Event.FAIL}),
    }
)

# Rows for those who hear of the event; whoever causes it knows better and has no transition here.
HEARD_ONLY = frozenset({(State.CLAIMED, Event.ACKNOWLEDGE), (State.TRANSFERRING, Event.ACKNOWLEDGE)})


class NotYours(Exception):
    """An event was caused by a role that can't cause it: a fault of the code that called."""


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


class View:
    """One role's view of a hand-off. Not thread-safe; its owner locks."""

    __slots__ = ("_handoff", "role")

    def __init__(self, role: Role, state: State = State.RESERVED) -> None:
        self.role = role
        self._handoff = Handoff(state)

    @property
    def state(self) -> State:
        return self._handoff.state

    @property
    def over(self) -> bool:
        return self._handoff.over

    @property
    def may_write(self) -> bool:
        """Whether the consumer may put what arrives into its blocks."""
        return self.role is Role.CONSUMER and self.state in _WRITING

    @property
    def may_read(self) -> bool:
        """Whether the consumer's engine may read what arrived: it has been verified and not yet acknowledged."""
        return self.role is Role.CONSUMER and self.state is State.VERIFIED

    def cause(self, event: Event) -> bool:
        """Take ``event``, of our own making; whether it changed anything.

        Raises:
            NotYours: it isn't this role's to cause.
        """
        if event not in CAUSES[self.role]:
            raise NotYours(f"a {self.role.value} can't cause {event.value!r}; it may: {_names(CAUSES[self.role])}")
        if (self.state, event) in HEARD_ONLY:
            return False
        return self._handoff.on(event)

    def hear(self, event: Event) -> bool:
        """Take ``event``, that another role is known or assumed to have caused; whether it changed anything."""
        return self._handoff.on(event)


_WRITING = frozenset({State.CLAIMED, State.TRANSFERRING})


def _names(events: frozenset[Event]) -> str:
    return ", ".join(sorted(event.value for event in events))
