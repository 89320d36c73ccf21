"""What the consumer asks and compares when it reads a producer's blocks itself (NIXL). No I/O.

Before reading it claims the ticket. Afterwards it asks for digests of the blocks it read: the answer says that they
have been held all the while, and what was in them. Which blocks are compared is the mode's to say.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from segue.kv_transfer.receiving import Corrupt
from segue.proto.kv_transfer_pb2 import BlockLayout, DigestRequest, Ticket

DigestMode = Literal["full", "sampled", "off"]

# Of the blocks between the first and the last of a transfer, one in so many is compared in ``sampled``.
SAMPLED_ONE_IN = 8


def positions_to_check(mode: DigestMode, ticket_id: str, first_block: int, blocks: int) -> list[int]:
    """Which of the blocks ``first_block`` to ``blocks`` (exclusive) are compared; ascending.

    A sample has both ends, where a transfer of the wrong length or offset shows, and others that the ticket's random
    bits choose: the same for whoever asks again.
    """
    positions = range(first_block, blocks)
    if mode == "off" or not positions:
        return []
    if mode == "full" or len(positions) <= 2:
        return list(positions)
    inner = positions[1:-1]
    chosen = random.Random(ticket_id).sample(inner, -(-len(inner) // SAMPLED_ONE_IN))
    return [positions[0], *sorted(chosen), positions[-1]]


class ReadCheck:
    """One read of ``blocks`` from ``first_block`` on (positions within the request)."""

    __slots__ = ("_layout", "_ticket", "positions")

    def __init__(self, mode: DigestMode, ticket: Ticket, layout: BlockLayout, first_block: int) -> None:
        self._ticket = ticket
        self._layout = layout
        self.positions = positions_to_check(mode, ticket.ticket_id, first_block, ticket.blocks)

    def claim_request(self) -> DigestRequest:
        """To be answered before anything is read."""
        return self._request([], claim=True)

    def digest_request(self) -> DigestRequest:
        """To be answered after everything has been read; asks for nothing but the answer if the mode is off."""
        return self._request(self.positions, claim=False)

    def compare(self, theirs: Sequence[int], ours: Sequence[int]) -> None:
        """Both are digests of ``positions``, in that order.

        Raises:
            Corrupt: one differs, or they are not as many.
        """
        if not len(theirs) == len(ours) == len(self.positions):
            raise Corrupt(f"{len(theirs)} digests arrived, {len(self.positions)} were asked for")
        for position, sent, seen in zip(self.positions, theirs, ours, strict=True):
            if sent != seen:
                raise Corrupt(f"block {position}: digest of what arrived is {seen:016x}, the producer's is {sent:016x}")

    def _request(self, blocks: Sequence[int], claim: bool) -> DigestRequest:
        ticket = self._ticket
        return DigestRequest(
            ticket_id=ticket.ticket_id,
            producer_epoch=ticket.producer_epoch,
            request_id=ticket.request_id,
            layout=self._layout,
            blocks=blocks,
            claim=claim,
        )
