"""``segue.v1.Fleet``: what the router knows, for operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import grpc
import grpc.aio

from segue.proto.fleet_pb2 import FleetState, ListFleetRequest, WatchFleetRequest
from segue.proto.fleet_pb2_grpc import FleetServicer

_INTERVAL_S = 1.0
_INTERVAL_MIN_S, _INTERVAL_MAX_S = 0.2, 60.0


class FleetService(FleetServicer):
    """Who may call it is the gate's business."""

    def __init__(self, state: Callable[[], FleetState]) -> None:
        self._state = state

    async def List(
        self, request: ListFleetRequest, context: grpc.aio.ServicerContext[ListFleetRequest, FleetState]
    ) -> FleetState:
        return self._state()

    async def Watch(
        self, request: WatchFleetRequest, context: grpc.aio.ServicerContext[WatchFleetRequest, FleetState]
    ) -> AsyncIterator[FleetState]:
        interval_s = request.interval_s or _INTERVAL_S
        if not _INTERVAL_MIN_S <= interval_s <= _INTERVAL_MAX_S:
            message = f"interval_s is {interval_s:g}; it must be {_INTERVAL_MIN_S:g} to {_INTERVAL_MAX_S:g}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        while True:
            yield self._state()
            await asyncio.sleep(interval_s)
