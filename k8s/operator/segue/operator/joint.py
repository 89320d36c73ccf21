"""Scaling mode Joint: the scaling policy over what the routers of one PDCluster measure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc.aio

from segue.base.identity import ROUTER_DNS
from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.base.tls_grpc import open_aio_channel
from segue.cluster.autoscaling.fleet_readings import Look, fleet_readings
from segue.cluster.pools import PoolName
from segue.cluster.scaling.balance import Joint
from segue.cluster.scaling.joint import Budget
from segue.cluster.scaling.pace import Bounds, Pace
from segue.cluster.scaling.policy import PolicyState, ScalingPolicy, decide
from segue.operator.spec import ClusterSpec, PoolPods
from segue.proto.fleet_pb2 import ListFleetRequest
from segue.proto.fleet_pb2_grpc import FleetStub

log = get_logger("operator")

# The routers' port for workers: it asks for no API key.
ROUTER_PORT = 9100
_ANSWER_S = 3.0
_WINDOW_S = 30.0


@dataclass(frozen=True, slots=True)
class JointDecision:
    """``pools`` None: no router has said anything, and nothing follows."""

    pools: dict[PoolName, int] | None = None
    reason: str = ""


class JointScaler:
    """Of one PDCluster. What it remembers are windows and pauses; a new one waits them out again."""

    def __init__(self, mesh: TlsSource | None = None, port: int = ROUTER_PORT) -> None:
        self._mesh = mesh
        self._port = port
        self._state = PolicyState()

    async def decide(self, spec: ClusterSpec, router_ips: Sequence[str]) -> JointDecision:
        looks = [look for look in await asyncio.gather(*map(self._look, router_ips)) if look is not None]
        cluster = fleet_readings(looks, time.monotonic())
        if cluster is None:
            return JointDecision(None, f"none of {len(router_ips)} routers has said anything")
        decision, self._state = decide(policy_of(spec), self._state, cluster, time.monotonic())
        pools: dict[PoolName, int] = {"prefill": decision.prefill.workers, "decode": decision.decode.workers}
        reason = "; ".join(dict.fromkeys((decision.prefill.reason, decision.decode.reason)))
        return JointDecision(pools, reason)

    async def _look(self, ip: str) -> Look | None:
        address = f"[{ip}]:{self._port}" if ":" in ip else f"{ip}:{self._port}"
        peer = ROUTER_DNS if self._mesh is not None else ""
        try:
            async with open_aio_channel(address, self._mesh, peer) as channel:
                asked = ListFleetRequest(window_s=_WINDOW_S)
                return Look(await FleetStub(channel).List(asked, timeout=_ANSWER_S), time.monotonic())
        except grpc.aio.AioRpcError as error:
            log.warning("router_not_heard", router=address, why=f"{error.code().name}: {error.details()}")
            return None


def policy_of(spec: ClusterSpec) -> ScalingPolicy:
    """Raises ValueError without a budget, which the spec's own check has refused."""
    if spec.budget is None:
        raise ValueError("scaling.mode Joint without a budget")
    return ScalingPolicy(
        prefill=_pace(spec.prefill),
        decode=_pace(spec.decode),
        joint=Joint(Budget(spec.budget.gpus, spec.prefill.cost, spec.decode.cost)),
    )


def _pace(pool: PoolPods) -> Pace:
    return Pace(bounds=Bounds(pool.min_replicas, pool.max_replicas))
