"""The KV cache of one answer on its way from prefill to decode: its ticket, and who has to be told to free it."""

from __future__ import annotations

from segue.kv_transfer.held_ticket import HeldTicket
from segue.proto.kv_transfer_pb2 import Ticket
from segue.proto.worker_pb2 import RequestOutput
from segue.router.lifecycle.actions import Action, Release


class KvInHand:
    """``held`` is the ticket of a KV cache that nobody is known to have consumed: its lease is to be renewed."""

    def __init__(self) -> None:
        self.held: HeldTicket | None = None
        self._claimed: Ticket | None = None

    @property
    def producer_id(self) -> str | None:
        """Whose KV cache decode was given."""
        ticket = self._claimed if self.held is None else self.held.ticket
        return None if ticket is None else ticket.producer_id

    def offered(self, output: RequestOutput, now_s: float) -> None:
        """A worker has ended its part; perhaps with an offer."""
        self.held = HeldTicket(output.offer, now_s) if output.HasField("offer") else None

    def assign(self) -> Ticket | None:
        """To a decode worker; None if there is nothing to be had."""
        if self.held is None:
            return None
        self.held.assign()
        return self.held.ticket

    def consumed(self) -> None:
        """Decode has it, or could not get it and has given it back."""
        if self.held is not None:
            self.held.consumed()
            self._claimed, self.held = self.held.ticket, None

    def producer_lost(self, worker_id: str) -> None:
        """A worker is gone, and its KV caches with it."""
        if self.held is not None and self.held.ticket.producer_id == worker_id:
            self.held.producer_lost()
            self.held = None

    def release(self) -> list[Action]:
        """Nobody will claim it."""
        held, self.held = self.held, None
        return [Release(held.ticket.producer_id, held.ticket)] if held is not None and held.end() else []

    def release_claimed(self) -> list[Action]:
        """Decode has given it back, but perhaps over the link that has just failed it; ours is another one."""
        return [] if self._claimed is None else [Release(self._claimed.producer_id, self._claimed)]


def release_late(worker_id: str, output: RequestOutput) -> list[Action]:
    """What comes too late is only to be freed."""
    return [Release(worker_id, output.offer)] if output.HasField("offer") else []
