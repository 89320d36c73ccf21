"""Scaling mode Joint: the scaling policy over what the routers of one PDCluster measure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from segue.base.errors import SegueError
from segue.base.logging import get_logger
from segue.base.tls import TlsFiles
from segue.client.connection import Connection
from segue.client.fleet import FleetClient
from segue.cluster.autoscaling.fleet_readings import Look, fleet_readings
from segue.cluster.pools import PoolName
from segue.cluster.scaling.balance import Joint
from segue.cluster.scaling.joint import Budget
from segue.cluster.scaling.pace import Bounds, Pace
from segue.cluster.scaling.policy import PolicyState, ScalingPolicy, decide
from segue.operator.spec import ClusterSpec, PoolPods

log = get_logger("operator")

ROUTER_PORT = 9000
_ANSWER_S = 3.0


@dataclass(frozen=True, slots=True)
class JointDecision:
    """``pools`` None: no router has said anything, and nothing follows."""

    pools: dict[PoolName, int] | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RouterAccess:
    """How routers are asked; ``api_key`` where they want one, marked for operations."""

    api_key: str | None = None
    tls: TlsFiles | None = None
    port: int = ROUTER_PORT


class JointScaler:
    """Of one PDCluster. What it remembers are windows and pauses; a new one waits them out again."""

    def __init__(self, access: RouterAccess) -> None:
        self._access = access
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
        host = f"[{ip}]" if ":" in ip else ip
        # Inside the cluster's network, as the routers' plain-text listeners are.
        connection = Connection(
            f"{host}:{self._access.port}", self._access.api_key, self._access.tls, plain_text_key=True
        )
        try:
            async with FleetClient(connection, timeout_s=_ANSWER_S) as fleet:
                return Look(await fleet.state(), time.monotonic())
        except SegueError as error:
            log.warning("router_did_not_answer", address=connection.address, error=error.message)
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
