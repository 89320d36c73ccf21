"""The manager: a detached actor that starts the router and the workers and outlives whoever asked for them."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass

import ray

from segue.base.errors import SettingsError
from segue.base.logging import get_logger, setup_logging
from segue.cluster.autoscaling.autoscaler import autoscaling
from segue.cluster.autoscaling.fleet_watch import FleetWatch
from segue.cluster.autoscaling.settings import AutoscalerSettings
from segue.cluster.manager import serve_pools
from segue.cluster.on_ray.pools import RayPools
from segue.cluster.on_ray.process_actor import ProcessActor
from segue.cluster.on_ray.settings import MANAGER, NAMESPACE, ROUTER, RayCluster, RouterPorts, router_spec

log = get_logger("manager")

# Ray's own mark of the head node; a little of it is asked for.
_ON_HEAD = {"node:__internal_head__": 0.001}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a cluster is; each host:port."""

    http: str
    grpc: str
    pools: str


class Manager:
    """An asynchronous actor. If it dies Ray starts it again, and it finds its workers by their names.

    It and the router stay on the head node, whose loss is the loss of the Ray cluster anyway: workers keep the
    router's address.
    """

    def __init__(self, cluster: RayCluster) -> None:
        setup_logging("json")
        self._cluster = cluster
        host = ray.util.get_node_ip_address()
        self._ports = RouterPorts(host, cluster.port, cluster.grpc_port, cluster.worker_port)
        self._addresses: asyncio.Future[Addresses] | None = None
        self._stopping = asyncio.Event()
        context = ray.get_runtime_context()
        if context.was_current_actor_reconstructed:  # Nobody else will call it.
            context.current_actor.start.remote()

    async def start(self) -> Addresses:
        """Start what isn't there yet; once, however often it is called."""
        if self._addresses is None:
            self._addresses = asyncio.get_running_loop().create_future()
            self._serving = asyncio.ensure_future(self._serve(self._addresses))
            self._serving.add_done_callback(self._on_end)
        return await asyncio.shield(self._addresses)

    async def _serve(self, addresses: asyncio.Future[Addresses]) -> None:
        """Until told to stop."""
        self._router = (
            ray.remote(ProcessActor)
            .options(
                name=ROUTER,
                namespace=NAMESPACE,
                get_if_exists=True,
                lifetime="detached",
                max_restarts=-1,
                max_concurrency=4,
                num_cpus=0,
                resources=_ON_HEAD,
            )
            .remote(router_spec(self._cluster, self._ports))
        )
        await self._router.place.remote()
        watch = FleetWatch([f"{self._ports.host}:{self._ports.worker}"])
        pools = self._pools = RayPools(self._cluster, self._ports, watch.work)
        pools.adopt()
        wanted = {"prefill": self._cluster.prefill.workers, "decode": self._cluster.decode.workers}
        missing = {pool.name: wanted[pool.name] for pool in pools.view().pools if not pool.workers}
        if missing:
            await pools.scale(missing)
        self._watching = asyncio.ensure_future(pools.watch_actors())
        host, scaling = self._ports.host, self._cluster.scaling or AutoscalerSettings()
        async with (
            autoscaling(scaling, pools, watch) as scaled,
            serve_pools(scaled, host, self._cluster.pools_port) as address,
        ):
            addresses.set_result(Addresses(f"{host}:{self._ports.http}", f"{host}:{self._ports.grpc}", address))
            await self._stopping.wait()

    def _on_end(self, serving: asyncio.Task[None]) -> None:
        """Whoever waits for the start is told why there is none; later Ray is to start another manager."""
        if (error := serving.exception()) is None or self._addresses is None:
            return
        if not self._addresses.done():
            self._addresses.set_exception(error)
            return
        log.error("manager_ended", error=repr(error))
        os._exit(1)

    async def stop(self) -> None:
        """Let all workers drain, then end the router. The manager itself is killed by whoever asked."""
        self._stopping.set()  # First who scales: what drains now is not to be replaced.
        await self._serving
        await self._pools.stop_all()
        self._watching.cancel()
        await self._router.stop.remote(self._cluster.drain_timeout_s)
        ray.kill(self._router, no_restart=True)


def start_manager(cluster: RayCluster) -> Addresses:
    """Start a cluster, or find the one that runs; needs ``ray.init`` with the namespace :data:`NAMESPACE`."""
    manager = (
        ray.remote(Manager)
        .options(
            name=MANAGER,
            namespace=NAMESPACE,
            get_if_exists=True,
            lifetime="detached",
            max_restarts=-1,
            num_cpus=0,
            resources=_ON_HEAD,
        )
        .remote(cluster)
    )
    addresses: Addresses = ray.get(manager.start.remote())
    return addresses


def stop_manager() -> None:
    """Raises SettingsError: no cluster runs there."""
    try:
        manager = ray.get_actor(MANAGER, namespace=NAMESPACE)
    except ValueError:
        raise SettingsError("no cluster of Segue's runs on this Ray cluster; nothing was stopped") from None
    ray.get(manager.stop.remote())
    ray.kill(manager, no_restart=True)
