"""KEDA and the HorizontalPodAutoscaler behind it, for one pool: a gRPC client, and the formula that it feeds.

After KEDA's external scaler (``pkg/scalers/external_scaler.go``) and, in Kubernetes' podautoscaler,
``GetExternalPerPodMetricReplicas`` and ``stabilizeRecommendationWithBehaviors``: ``desired = ceil(sum / target)``, no
change within a tenth, up at once, down to the most that was wanted within the window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import grpc
import grpc.aio

from segue.proto.externalscaler_pb2 import GetMetricsRequest, ScaledObjectRef
from segue.proto.externalscaler_pb2_grpc import ExternalScalerStub

_TOLERANCE = 0.1


@dataclass
class Autoscaler:
    """Its ``minReplicas`` is 1."""

    most: int = 100
    down_window_s: float = 0.0
    _wanted: list[tuple[float, int]] = field(default_factory=list)

    def desired(self, now_s: float, present: int, value: float, target: float) -> int:
        """``value`` is the pool's sum, of which quantities keep thousandths."""
        value = math.floor(value * 1000) / 1000
        wanted = present if abs(value / (target * present) - 1) <= _TOLERANCE else math.ceil(value / target)
        wanted = min(self.most, max(1, wanted))
        self._wanted = [(at_s, one) for at_s, one in self._wanted if now_s - at_s < self.down_window_s]
        self._wanted.append((now_s, wanted))
        return wanted if wanted >= present else min(present, max(one for _, one in self._wanted))


class Keda:
    """``metadata`` is the trigger's."""

    def __init__(self, channel: grpc.aio.Channel, autoscaler: Autoscaler | None = None, **metadata: str) -> None:
        self.stub = ExternalScalerStub(channel)
        self.trigger = ScaledObjectRef(name="segue", namespace="segue", scalerMetadata=metadata)
        self.autoscaler = autoscaler or Autoscaler()

    async def value(self) -> tuple[float, float]:
        """The metric and its target."""
        (spec,) = (await self.stub.GetMetricSpec(self.trigger)).metricSpecs
        asked = GetMetricsRequest(scaledObjectRef=self.trigger, metricName=spec.metricName)
        (metric,) = (await self.stub.GetMetrics(asked)).metricValues
        assert metric.metricName == spec.metricName
        # KEDA takes the float where there is one above 0.
        value = metric.metricValueFloat if metric.metricValueFloat > 0 else float(metric.metricValue)
        return value, spec.targetSizeFloat or float(spec.targetSize)

    async def desired(self, present: int = 1, now_s: float = 0.0) -> int:
        """How many workers the pool should have; it would have none were the scaler not active. As many as there are
        where the metric can't be had: ``computeReplicasForMetrics`` fails, and nothing is changed."""
        if not (await self.stub.IsActive(self.trigger)).result:
            return 0
        try:
            value, target = await self.value()
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                raise
            return present
        return self.autoscaler.desired(now_s, present, value, target)
