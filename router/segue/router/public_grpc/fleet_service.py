"""``segue.v1.Fleet``: what the router knows, for operators."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio

from segue.proto.fleet_pb2 import FleetState, ListFleetRequest, WatchFleetRequest
from segue.proto.fleet_pb2_grpc import FleetServicer
from segue.router.metrics.window import WINDOW_S

_INTERVAL_S = 1.0
_INTERVAL_MIN_S, _INTERVAL_MAX_S = 0.2, 60.0
_WINDOW_MIN_S = 1.0


class FleetService(FleetServicer):
    """Who may call it is the gate's business. ``state`` takes the seconds that rates are to cover."""

    def __init__(self, state: Callable[[float], FleetState]) -> None:
        self._state = state

    async def List(
        self, request: ListFleetRequest, context: grpc.aio.ServicerContext[ListFleetRequest, FleetState]
    ) -> FleetState:
        return self._state(await _window_s(request.window_s, context))

    async def Watch(
        self, request: WatchFleetRequest, context: grpc.aio.ServicerContext[WatchFleetRequest, FleetState]
    ) -> AsyncIterator[FleetState]:
        interval_s = request.interval_s or _INTERVAL_S
        if not _INTERVAL_MIN_S <= interval_s <= _INTERVAL_MAX_S:
            message = f"interval_s is {interval_s:g}; it must be {_INTERVAL_MIN_S:g} to {_INTERVAL_MAX_S:g}"
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
        window_s = await _window_s(request.window_s, context)
        while True:
            yield self._state(window_s)
            await asyncio.sleep(interval_s)


async def _window_s(asked_s: float, context: grpc.aio.ServicerContext[Any, FleetState]) -> float:
    window_s = asked_s or WINDOW_S
    if not _WINDOW_MIN_S <= window_s <= WINDOW_S:
        message = f"window_s is {window_s:g}; it must be {_WINDOW_MIN_S:g} to {WINDOW_S:g}"
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
    return window_s
