"""Scaling mode Joint: the scaling policy over what the routers of one PDCluster measure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence

import grpc.aio

from segue.base.identity import ROUTER_DNS
from segue.base.logging import get_logger
from segue.base.tls import TlsSource
from segue.base.tls_grpc import open_aio_channel
from segue.cluster.autoscaling.adviser import Adviser
from segue.cluster.autoscaling.fleet_readings import Look
from segue.cluster.autoscaling.with_pools import reason_of
from segue.cluster.pools import POOL_NAMES, PoolName, PoolsView, PoolView, PoolWorker
from segue.cluster.scaling.balance import Joint
from segue.cluster.scaling.joint import Budget
from segue.cluster.scaling.pace import Bounds, Pace
from segue.cluster.scaling.policy import ScalingPolicy
from segue.operator.names import COMPONENT, Manifest
from segue.operator.observed import JointDecision, Recommendation
from segue.operator.router_processes import processes_of
from segue.operator.shrink import Worker, chosen
from segue.operator.spec import ClusterSpec, PoolPods
from segue.proto.fleet_pb2 import ListFleetRequest
from segue.proto.fleet_pb2_grpc import FleetStub

log = get_logger("operator")

# The routers' port for workers: it asks for no API key.
ROUTER_PORT = 9100
_ANSWER_S = 3.0
_WINDOW_S = 30.0


class JointScaler:
    """Of one PDCluster. ``mesh`` is an operator's certificate where processes use TLS among each other."""

    def __init__(self, mesh: TlsSource | None = None) -> None:
        self._mesh = mesh
        self._adviser = Adviser()

    async def decide(self, spec: ClusterSpec, routers: Sequence[str], view: PoolsView) -> JointDecision:
        """One look. ``routers`` are :func:`router_addresses`; where none is heard nothing is decided."""
        looks = [look for look in await asyncio.gather(*map(self._look, routers)) if look is not None]
        advice = self._adviser.look(policy_of(spec), looks, view, time.monotonic())
        if advice is None:
            return JointDecision(reason=f"none of {len(routers)} router processes has said anything")
        if advice.orders.scale:
            self._adviser.done()
        held, decision = advice.orders.held, advice.decision
        wanted = {one.pool: Recommendation(one.workers, reason_of(one, held)) for one in decision.pools}
        reasons = (decision.prefill.reason, decision.decode.reason, held)
        return JointDecision(advice.orders.scale, wanted, "; ".join(filter(None, dict.fromkeys(reasons))))

    async def _look(self, address: str) -> Look | None:
        peer = ROUTER_DNS if self._mesh is not None else ""
        try:
            async with open_aio_channel(address, self._mesh, peer) as channel:
                asked = ListFleetRequest(window_s=_WINDOW_S)
                return Look(await FleetStub(channel).List(asked, timeout=_ANSWER_S), time.monotonic())
        except grpc.aio.AioRpcError as error:
            log.warning("router_not_heard", router=address, why=f"{error.code().name}: {error.details()}")
            return None


def router_addresses(pods: Iterable[Manifest]) -> list[str]:
    """Of a cluster's pods: where each process of each router listens for workers, host:port. A router of several
    processes has a port for each, one behind the other, and each process knows its own requests alone."""
    found: list[str] = []
    for pod in pods:
        ip = pod.get("status", {}).get("podIP", "")
        if pod["metadata"].get("labels", {}).get(COMPONENT) == "router" and ip:
            host = f"[{ip}]" if ":" in ip else ip
            processes = processes_of(pod.get("spec", {}).get("containers", []))
            found += [f"{host}:{ROUTER_PORT + number}" for number in range(processes)]
    return found


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
    budget, rules = Budget(spec.budget.gpus, spec.prefill.cost, spec.decode.cost), spec.scaling.joint
    return ScalingPolicy(
        prefill=_pace(spec.prefill),
        decode=_pace(spec.decode),
        joint=Joint(budget, grow_step=rules.grow_step, room_starts=rules.room_starts),
    )


def _pace(pool: PoolPods) -> Pace:
    return Pace(bounds=Bounds(pool.min_replicas, pool.max_replicas))
