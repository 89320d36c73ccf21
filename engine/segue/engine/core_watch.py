"""What ``AsyncLLM`` does not tell of its engine core while no request runs: that it died, and what it holds."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import grpc.aio

from segue.base.logging import get_logger
from segue.proto.kv_transfer_pb2 import RenewRequest
from segue.proto.kv_transfer_pb2_grpc import KvTransferStub

log = get_logger("engine")

POLL_S = 0.5


class HeldOffers:
    """How many offers an engine core holds, by its own count and by the offers just made. Clock passed in.

    The core's count lags: an offer is in it one step after the request's last output, and it is asked for now and
    then. So an offer counts at least this long, and a worker never leaves between the two.
    """

    def __init__(self) -> None:
        self._counted = 0
        self._made_at_s: deque[float] = deque()

    def on_offer(self, now_s: float) -> None:
        self._made_at_s.append(now_s)

    def on_count(self, counted: int) -> None:
        self._counted = counted

    def at_least(self, now_s: float) -> int:
        while self._made_at_s and now_s - self._made_at_s[0] > 2 * POLL_S:
            self._made_at_s.popleft()
        return max(self._counted, len(self._made_at_s))


async def watch_core(
    is_dead: Callable[[], bool], on_count: Callable[[int], None], channel: grpc.aio.Channel | None, epoch: str
) -> None:
    """Ask again and again; returns when the core has died. ``channel`` is to its KvTransfer, None if it serves none."""
    while not is_dead():
        if channel is not None:
            try:
                # Renews nothing: the answer says how much is held.
                answer = await KvTransferStub(channel).Renew(RenewRequest(producer_epoch=epoch), timeout=5 * POLL_S)
                on_count(answer.held_offers)
            except grpc.aio.AioRpcError as broken:
                log.warning("held_offers_unknown", error=broken.code().name)
        await asyncio.sleep(POLL_S)
