"""Scaling mode Joint: the scaling policy over what the routers of one PDCluster measure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import grpc.aio

from segue.base.identity import ROUTER_DNS
from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.base.tls_grpc import open_aio_channel
from segue.cluster.autoscaling.autoscaler import as_if_asked_for, not_done
from segue.cluster.autoscaling.fleet_readings import Look, fleet_readings
from segue.cluster.autoscaling.with_pools import orders, with_pools
from segue.cluster.pools import POOL_NAMES, PoolName, PoolsView, PoolView, PoolWorker
from segue.cluster.scaling.balance import Joint
from segue.cluster.scaling.joint import Budget
from segue.cluster.scaling.pace import Bounds, Pace
from segue.cluster.scaling.policy import PolicyState, ScalingPolicy, decide
from segue.operator.shrink import Worker, chosen
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
    """``pools`` are those that change, and to how many workers."""

    pools: Mapping[PoolName, int] = field(default_factory=dict)
    reason: str = ""


class JointScaler:
    """Of one PDCluster. What it remembers are windows and pauses; a new one waits them out again.

    ``mesh`` is a router's or an operator's certificate where processes use TLS among each other.
    """

    def __init__(self, mesh: TlsSource | None = None, port: int = ROUTER_PORT) -> None:
        self._mesh = mesh
        self._port = port
        self._state: PolicyState | None = None

    async def decide(self, spec: ClusterSpec, router_ips: Sequence[str], view: PoolsView) -> JointDecision:
        """One look. Where no router is heard nothing is decided."""
        looks = [look for look in await asyncio.gather(*map(self._look, router_ips)) if look is not None]
        now_s = time.monotonic()
        heard = fleet_readings(looks, now_s)
        if heard is None:
            return JointDecision(reason=f"none of {len(router_ips)} routers has said anything")
        policy = policy_of(spec)
        state = self._state or as_if_asked_for(view, now_s)
        decision, after = decide(policy, state, with_pools(heard, view, now_s), now_s)
        given = orders(decision, view, policy.joint.budget if policy.joint is not None else None)
        self._state = after if given.scale else not_done(state, after)
        reasons = (decision.prefill.reason, decision.decode.reason, given.held)
        return JointDecision(given.scale, "; ".join(filter(None, dict.fromkeys(reasons))))

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


def pools_as_asked(desired: Mapping[PoolName, int], workers: Mapping[PoolName, Sequence[Worker]]) -> PoolsView:
    """The pools as they will be once all has been done that was asked for: a pod that is still to be made is one that
    starts, one that is still to be marked leaves. Else what was decided a moment ago would be decided again, or undone.
    """
    return PoolsView("kubernetes", tuple(_as_asked(name, desired[name], workers.get(name, ())) for name in POOL_NAMES))


def _as_asked(name: PoolName, desired: int, workers: Sequence[Worker]) -> PoolView:
    staying = [worker for worker in workers if not worker.leaving]
    going = {worker.pod for worker in workers if worker.leaving} | set(chosen(workers, len(staying) - desired))
    pool = [
        PoolWorker(
            worker.pod,
            "leaving" if worker.pod in going else "running" if worker.started_s is not None else "restarting",
            worker.node,
        )
        for worker in workers
    ]
    missing = [PoolWorker(f"{name} to be made {one}", "restarting", "") for one in range(desired - len(staying))]
    return PoolView(name, desired, (*pool, *missing))


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
