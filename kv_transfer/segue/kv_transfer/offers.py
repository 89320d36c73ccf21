"""The producer's book of offers: which blocks are held under which ticket, how long. No I/O, clock passed in."""

from __future__ import annotations

import enum
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from segue.kv_transfer.handoff import OVER, TABLE, Event, Handoff, State

# How many tickets that are over the book still knows by name: a lease of 30 s at 128 requests a second.
_REMEMBERED = 4096

# How many claims at once may wait for an offer that the engine has yet to record. One more is answered by what is
# known: each of them keeps a thread, which those that can go on need.
MAX_WAITING = 4

# The longest that one renewal may hold an offer; as long as the longest request.
MAX_LEASE_S = 3600.0


class Refusal(enum.Enum):
    """Why a claim isn't honoured."""

    UNKNOWN = "unknown"  # Never offered here, or so long over that it is forgotten.
    USED = "used"  # Claimed before, by whomever, or handed over.
    EXPIRED = "expired"  # Its lease ran out.
    REVOKED = "revoked"  # Given back, or a side broke.
    OTHER_EPOCH = "other epoch"  # The producer has restarted since.
    OTHER_REQUEST = "other request"
    OTHER_LAYOUT = "other layout"
    NOT_CLAIMED = "not claimed"  # Digests were asked for before the claim.


_REFUSAL_BY_STATE = {State.EXPIRED: Refusal.EXPIRED, State.REVOKED: Refusal.REVOKED, State.FAILED: Refusal.REVOKED}


class TicketRefused(Exception):
    """A claim that can't be honoured; the message says what was seen and what was expected."""

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


@dataclass(slots=True)
class Offer:
    """Blocks of one finished prefill.

    ``engine_request_id`` is the engine's id for it, ``request_id`` the router's; ``block_ids`` are the engine's.
    ``lease_s`` is what a renewal adds from its moment on.
    """

    ticket_id: str
    request_id: str
    engine_request_id: str
    block_ids: tuple[int, ...]
    tokens: int
    expires_at_s: float
    lease_s: float = 0.0
    handoff: Handoff = field(default_factory=lambda: Handoff(State.OFFERED))


class OfferBook:
    """Offers by ticket. Methods may be called from any thread; an offer that is over is dropped and reported once.

    ``take_over()`` gives the engine's ids of requests whose blocks may be freed: each exactly once.

    The last tickets that are over are remembered: a second claim is refused without waiting for an offer that can't
    come, and a release that overtakes its offer frees the blocks when the offer comes.
    """

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self._offers: dict[str, Offer] = {}
        self._over: list[str] = []
        self._closed: dict[str, State] = {}
        self._changed = threading.Condition()
        self._waiting = 0

    def __len__(self) -> int:
        return len(self._offers)

    def add(self, offer: Offer) -> None:
        with self._changed:
            if (state := self._closed.get(offer.ticket_id)) is not None:
                offer.handoff.state = state
                self._over.append(offer.engine_request_id)
                return
            self._offers[offer.ticket_id] = offer
            self._changed.notify_all()

    def claim(self, ticket_id: str, epoch: str, request_id: str, wait_s: float = 0.0) -> Offer:
        """Claim a ticket, waiting up to ``wait_s`` for an offer that the engine has yet to record (``MAX_WAITING``).

        Raises:
            TicketRefused: the epoch or the request is another, or the ticket is unknown, used, released or expired.
        """
        self._check_epoch(ticket_id, epoch)
        with self._changed:
            self._wait_until_known(ticket_id, wait_s)
            offer = self._held(ticket_id, request_id)
            if not offer.handoff.on(Event.CLAIM):
                raise TicketRefused(
                    Refusal.USED, f"ticket {ticket_id} is single-use and already {offer.handoff.state.value}"
                )
            return offer

    def claimed(self, ticket_id: str, epoch: str, request_id: str) -> Offer:
        """An offer that was claimed before and has been held since.

        Raises:
            TicketRefused: as :meth:`claim`, or nobody has claimed it.
        """
        self._check_epoch(ticket_id, epoch)
        with self._changed:
            offer = self._held(ticket_id, request_id)
            if offer.handoff.state is State.OFFERED:
                raise TicketRefused(Refusal.NOT_CLAIMED, f"ticket {ticket_id} must be claimed first")
            return offer

    def state_of(self, ticket_id: str) -> State | None:
        """Where a ticket stands, if it is known."""
        with self._changed:
            offer = self._offers.get(ticket_id)
            return offer.handoff.state if offer is not None else self._closed.get(ticket_id)

    def record(self, ticket_id: str, event: Event) -> bool:
        """Apply an event to a ticket; whether it changed anything."""
        with self._changed:
            offer = self._offers.get(ticket_id)
            if offer is None:
                successor = TABLE.get((State.OFFERED, event))
                if successor in OVER and ticket_id not in self._closed:
                    self._close(ticket_id, successor)
                return False
            if not offer.handoff.on(event):
                return False
            self._drop_if_over(offer)
            return True

    def renew(self, ticket_id: str, now_s: float, lease_s: float = 0.0) -> bool:
        """Hold an offer for another lease from now on. Never shortens.

        ``lease_s`` of 0, or of more than ``MAX_LEASE_S``, means the lease that the offer began with: blocks that are
        held until the end of time are lost.

        Returns:
            False if the ticket is over or was never offered here.
        """
        with self._changed:
            offer = self._offers.get(ticket_id)
            if offer is None:
                return False
            asked_s = lease_s if 0 < lease_s <= MAX_LEASE_S else offer.lease_s
            offer.expires_at_s = max(offer.expires_at_s, now_s + asked_s)
            return True

    def expire(self, now_s: float) -> Sequence[Offer]:
        """Take back what nobody claimed in time."""
        with self._changed:
            due = [offer for offer in self._offers.values() if offer.expires_at_s <= now_s]
            expired = [offer for offer in due if offer.handoff.on(Event.EXPIRE)]
            for offer in expired:
                self._drop_if_over(offer)
            return expired

    def next_expiry_s(self) -> float | None:
        """When to call :meth:`expire` next; None if nothing is on offer."""
        with self._changed:
            return min((offer.expires_at_s for offer in self._offers.values()), default=None)

    def take_over(self) -> set[str]:
        """Engine request ids whose hand-off is over since the last call."""
        with self._changed:
            over, self._over = self._over, []
            return set(over)

    def _check_epoch(self, ticket_id: str, epoch: str) -> None:
        if epoch != self.epoch:
            raise TicketRefused(
                Refusal.OTHER_EPOCH,
                f"ticket {ticket_id} is of producer epoch {epoch}, this producer's is {self.epoch}: it has "
                "restarted and its KV cache is gone; compute the prompt again",
            )

    def _wait_until_known(self, ticket_id: str, wait_s: float) -> None:
        if self._waiting >= MAX_WAITING:
            return
        self._waiting += 1
        try:
            self._changed.wait_for(lambda: ticket_id in self._offers or ticket_id in self._closed, timeout=wait_s)
        finally:
            self._waiting -= 1

    def _held(self, ticket_id: str, request_id: str) -> Offer:
        offer = self._offers.get(ticket_id)
        if offer is None and (state := self._closed.get(ticket_id)) is not None:
            raise TicketRefused(
                _REFUSAL_BY_STATE.get(state, Refusal.USED),
                f"ticket {ticket_id} is single-use and already {state.value}",
            )
        if offer is None:
            raise TicketRefused(
                Refusal.UNKNOWN,
                f"ticket {ticket_id} is not on offer: it was never offered here, or was released or expired",
            )
        if offer.request_id != request_id:
            raise TicketRefused(
                Refusal.OTHER_REQUEST,
                f"ticket {ticket_id} was offered for request {offer.request_id}, claimed for {request_id}",
            )
        return offer

    def _drop_if_over(self, offer: Offer) -> None:
        if offer.handoff.over:
            del self._offers[offer.ticket_id]
            self._over.append(offer.engine_request_id)
            self._close(offer.ticket_id, offer.handoff.state)

    def _close(self, ticket_id: str, state: State) -> None:
        self._closed[ticket_id] = state
        if len(self._closed) > _REMEMBERED:
            del self._closed[next(iter(self._closed))]
        self._changed.notify_all()
