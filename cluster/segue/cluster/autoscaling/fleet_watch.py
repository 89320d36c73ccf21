"""Keeps listening to every router's ``segue.v1.Fleet``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import grpc.aio

from segue.base.identity import ROUTER_DNS
from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.base.tls_grpc import open_aio_channel
from segue.cluster.autoscaling.fleet_readings import Look, work_by_worker
from segue.proto.fleet_pb2 import FleetState, ListFleetRequest, WatchFleetRequest
from segue.proto.fleet_pb2_grpc import FleetStub

log = get_logger("autoscaler")

_DIAL_AGAIN_S = 1.0
_ANSWER_S = 2.0
# A router whose machine is gone ends its stream by this, so that it is dialled again.
_KEEPALIVE = (("grpc.keepalive_time_ms", 10_000), ("grpc.keepalive_timeout_ms", 5_000))


class FleetWatch:
    """``addresses`` (host:port) are the routers' ports for workers, where each process of a router has its own.

    ``tls``: with a router's or an operator's certificate; None is plain text.
    """

    def __init__(self, addresses: Sequence[str], tls: TlsSource | None = None) -> None:
        self._addresses = tuple(addresses)
        self._tls = tls
        self._looks: dict[str, Look] = {}
        self._silent: set[str] = set()

    def looks(self) -> list[Look]:
        """The latest of each router, however old."""
        return list(self._looks.values())

    async def run(
        self, interval_s: float, window_s: float, heard: Callable[[Iterable[Look]], None] = lambda _: None
    ) -> None:
        """Until cancelled; ``heard`` is given the latest of all routers whenever one has said something."""
        request = WatchFleetRequest(interval_s=interval_s, window_s=window_s)
        async with asyncio.TaskGroup() as tasks:
            for address in self._addresses:
                tasks.create_task(self._listen(address, request, heard), name=f"fleet of {address}")

    async def work(self) -> Mapping[str, float]:
        """As :func:`work_by_worker`, asked for now. Of a router that doesn't answer nothing is known."""
        states = await asyncio.gather(*(self._ask(address) for address in self._addresses))
        return work_by_worker(state for state in states if state is not None)

    def _open(self, address: str) -> grpc.aio.Channel:
        return open_aio_channel(address, self._tls, ROUTER_DNS if self._tls is not None else "", _KEEPALIVE)

    async def _listen(self, address: str, request: WatchFleetRequest, heard: Callable[[Iterable[Look]], None]) -> None:
        """However often its stream ends."""
        while True:
            try:
                async with self._open(address) as channel:
                    async for state in FleetStub(channel).Watch(request):
                        self._looks[address] = Look(state, time.monotonic())
                        self._silent.discard(address)
                        heard(self._looks.values())
                why = "its stream has ended"
            except grpc.aio.AioRpcError as error:
                why = f"{error.code().name}: {error.details()}"
            if address not in self._silent:
                self._silent.add(address)
                log.warning("router_not_heard", router=address, why=why)
            await asyncio.sleep(_DIAL_AGAIN_S)

    async def _ask(self, address: str) -> FleetState | None:
        try:
            async with self._open(address) as channel:
                return await FleetStub(channel).List(ListFleetRequest(), timeout=_ANSWER_S)
        except grpc.aio.AioRpcError as error:
            log.warning("router_not_heard", router=address, why=f"{error.code().name}: {error.details()}")
            return None
