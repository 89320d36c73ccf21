"""The router as a KEDA external scaler: one ScaledObject for each pool, and no Prometheus in between.

KEDA asks for a metric and its target and makes a HorizontalPodAutoscaler of them, which computes
``ceil(value / target)``. What is asked for is in the trigger's metadata: ``pool``, and ``target`` for one worker.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import grpc
import grpc.aio

from segue.proto.externalscaler_pb2 import (
    GetMetricSpecResponse,
    GetMetricsRequest,
    GetMetricsResponse,
    IsActiveResponse,
    MetricSpec,
    MetricValue,
    ScaledObjectRef,
)
from segue.proto.externalscaler_pb2_grpc import ExternalScalerServicer
from segue.proto.worker_pb2 import Role
from segue.router.scaling.pool_load import Backlog, decode_use, need_known, prefill_backlog_s
from segue.router.workers.fleet import FleetSnapshot

_Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Signal:
    """What one pool is scaled by. ``default_target`` is for one worker."""

    role: Role
    metric: str
    default_target: float
    value: Callable[[FleetSnapshot, Backlog], float]


SIGNALS: Mapping[str, Signal] = {
    "prefill": Signal(Role.ROLE_PREFILL, "segue-prefill-backlog-seconds", 1.5, prefill_backlog_s),
    "decode": Signal(Role.ROLE_DECODE, "segue-decode-use", 0.8, decode_use),
}


class ExternalScaler(ExternalScalerServicer):
    """``fleet`` and ``backlog``, which is all routers', are asked for with every call: whichever router KEDA asks is
    told of the whole cluster.

    Errors: INVALID_ARGUMENT for a trigger whose metadata names no pool of ours or a target that is no number.
    UNAVAILABLE for the metric of a pool of which nobody can say what it needs: an autoscaler without a metric leaves
    the pool as it is, and so it should be left.
    """

    def __init__(self, fleet: Callable[[], FleetSnapshot], backlog: Callable[[FleetSnapshot], Backlog]) -> None:
        self._fleet = fleet
        self._backlog = backlog

    async def IsActive(self, request: ScaledObjectRef, context: _Context) -> IsActiveResponse:
        """Always: a pool without a worker would make every request wait for an engine to load."""
        await _read(request, context)
        return IsActiveResponse(result=True)

    async def StreamIsActive(self, request: ScaledObjectRef, context: _Context) -> AsyncIterator[IsActiveResponse]:
        await _read(request, context)
        yield IsActiveResponse(result=True)
        await _until_cancelled()

    async def GetMetricSpec(self, request: ScaledObjectRef, context: _Context) -> GetMetricSpecResponse:
        return _spec(*await _read(request, context))

    async def StreamMetricSpec(
        self, request: ScaledObjectRef, context: _Context
    ) -> AsyncIterator[GetMetricSpecResponse]:
        yield _spec(*await _read(request, context))
        await _until_cancelled()

    async def GetMetrics(self, request: GetMetricsRequest, context: _Context) -> GetMetricsResponse:
        signal, _ = await _read(request.scaledObjectRef, context)
        if request.metricName not in ("", signal.metric):
            await _refuse(context, f"metric {request.metricName!r} is not this pool's, which is {signal.metric!r}")
        fleet = self._fleet()
        backlog = self._backlog(fleet)
        if not need_known(signal.role, fleet, backlog):
            pool = request.scaledObjectRef.scalerMetadata["pool"]
            told = f"there is work and no {pool} worker is ready: how many are needed is not known until one is"
            await context.abort(grpc.StatusCode.UNAVAILABLE, f"{told}; keep as many as there are")
        value = signal.value(fleet, backlog)
        return GetMetricsResponse(
            metricValues=[MetricValue(metricName=signal.metric, metricValue=round(value), metricValueFloat=value)]
        )


def _spec(signal: Signal, target: float) -> GetMetricSpecResponse:
    whole = max(1, round(target))
    return GetMetricSpecResponse(
        metricSpecs=[MetricSpec(metricName=signal.metric, targetSize=whole, targetSizeFloat=target)]
    )


async def _read(trigger: ScaledObjectRef, context: _Context) -> tuple[Signal, float]:
    metadata = trigger.scalerMetadata
    pool = metadata.get("pool", "")
    signal = SIGNALS.get(pool)
    if signal is None:
        await _refuse(context, f"the trigger's metadata has pool {pool!r}; it must be {' or '.join(SIGNALS)}")
    given = metadata.get("target", "")
    try:
        target = float(given) if given else signal.default_target
    except ValueError:
        target = math.nan
    if not 0 < target < math.inf:
        await _refuse(context, f"the trigger's metadata has target {given!r}; it must be a number above 0")
    return signal, target


async def _refuse(context: _Context, message: str) -> NoReturn:
    await context.abort(grpc.StatusCode.INVALID_ARGUMENT, message)
    raise AssertionError("unreachable: abort raises")


async def _until_cancelled() -> None:
    """Nothing that is streamed here ever changes; the stream lasts as long as KEDA wants it."""
    await asyncio.Event().wait()
