"""The manager: a detached actor that starts the router and the workers and outlives whoever asked for them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from segue.base.errors import SettingsError
from segue.base.logging import get_logger, setup_logging
from segue.cluster.autoscaling.autoscaler import autoscaling
from segue.cluster.autoscaling.fleet_watch import FleetWatch
from segue.cluster.autoscaling.settings import AutoscalerSettings
from segue.cluster.manager import serve_pools
from segue.cluster.on_ray.mesh import Mesh
from segue.cluster.on_ray.pools import BEYOND_DRAIN_S, RayPools
from segue.cluster.on_ray.process_actor import ProcessActor
from segue.cluster.on_ray.settings import MANAGER, NAMESPACE, ROUTER, RayCluster, RouterPorts, router_spec
from segue.cluster.pools_access import PoolsGuard, new_token

log = get_logger("manager")

# Ray's own mark of the head node; a little of it is asked for.
_ON_HEAD = {"node:__internal_head__": 0.001}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a cluster is, each host:port, and what its owner reaches it with.

    ``operator`` are an operator's certificate, key and CA, by file name, empty where all is in plain text; then
    ``token`` is what the pools' port asks for.
    """

    http: str
    grpc: str
    pools: str
    operator: Mapping[str, str] = field(default_factory=dict, repr=False)
    token: str = field(default="", repr=False)

    @property
    def http_url(self) -> str:
        return f"{'https' if self.operator else 'http'}://{self.http}"


class Manager:
    """An asynchronous actor. If it dies Ray starts it again, and it finds its workers by their names.

    It and the router stay on the head node, whose loss is the loss of the Ray cluster anyway: workers keep the
    router's address.
    """

    def __init__(self, cluster: RayCluster, token: str) -> None:
        setup_logging("json")
        self._cluster = cluster
        self._mesh = None if cluster.ca is None else Mesh(cluster.ca)
        self._guard = PoolsGuard(token=token) if self._mesh is None else PoolsGuard(self._mesh.manager())
        host = ray.util.get_node_ip_address()
        self._ports = RouterPorts(host, cluster.port, cluster.grpc_port, cluster.worker_port)
        self._addresses: asyncio.Future[Addresses] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._router: Any = None
        self._pools: RayPools | None = None
        self._stopping = asyncio.Event()
        self._ending: asyncio.Task[Addresses | None] | None = None
        context = ray.get_runtime_context()
        self._later_life: bool = context.was_current_actor_reconstructed
        if self._later_life:  # Nobody else will call it.
            context.current_actor.start.remote()

    async def start(self) -> Addresses:
        """Start what isn't there yet; once, however often it is called.

        Raises:
            SettingsError: it can't be started as it is configured, or is being ended.
        """
        if self._stopping.is_set():
            raise SettingsError("the cluster that is there is being ended; try again when it has gone")
        if self._addresses is None:
            self._addresses = asyncio.get_running_loop().create_future()
            self._serving = asyncio.create_task(self._serve(self._addresses), name="manager")
            self._serving.add_done_callback(self._on_end)
        return await asyncio.shield(self._addresses)

    async def _serve(self, addresses: asyncio.Future[Addresses]) -> None:
        """Until told to stop."""
        host, mesh = self._ports.host, self._mesh
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
            .remote(router_spec(self._cluster, self._ports, {} if mesh is None else mesh.of_router(host)))
        )
        await self._router.place.remote()
        watch = FleetWatch([f"{host}:{self._ports.worker}"], self._guard.tls)
        pools = self._pools = RayPools(self._cluster, self._ports, watch.work, mesh)
        pools.adopt()
        scaling, insecure = self._cluster.scaling or AutoscalerSettings(), self._cluster.insecure
        async with (
            autoscaling(scaling, pools, watch) as scaled,
            serve_pools(scaled, host, self._cluster.pools_port, self._guard, insecure=insecure) as address,
            asyncio.TaskGroup() as tasks,
        ):
            pools.start()
            watching = tasks.create_task(pools.watch_actors(), name="watch actors")
            operator = {} if mesh is None else mesh.of_operator()
            http, grpc = f"{host}:{self._ports.http}", f"{host}:{self._ports.grpc}"
            addresses.set_result(Addresses(http, grpc, address, operator, self._guard.token))
            await self._stopping.wait()
            watching.cancel()

    async def pool_of(self, worker_id: str) -> str:
        """For a flex worker that Ray starts again: what it was. Empty where that isn't known."""
        pools = self._pools
        return (pools and pools.pool_of(worker_id)) or ""

    def _on_end(self, serving: asyncio.Task[None]) -> None:
        """Whoever waits for the first start is told why there is none; later Ray is to start another manager."""
        if (error := serving.exception()) is None or self._addresses is None:
            return
        if not self._addresses.done() and not self._later_life:
            self._addresses.set_exception(error)
            return
        log.error("manager_ended", error=repr(error))
        os._exit(1)

    async def stop(self) -> Addresses | None:
        """Let all workers drain, then end the router; where all that was, None if it was nowhere. The manager itself is
        killed by whoever asked, who may be gone by then: whoever asks again waits for the same end."""
        if self._ending is None:
            self._stopping.set()
            self._ending = asyncio.create_task(self._end(), name="end")
        return await asyncio.shield(self._ending)

    async def _end(self) -> Addresses | None:
        if self._serving is not None:  # First who scales: what drains now is not to be replaced.
            await asyncio.wait([self._serving])
        if self._pools is not None:
            await self._pools.stop_all()
        if self._router is not None:
            try:
                await self._router.stop.remote(self._cluster.drain_timeout_s + BEYOND_DRAIN_S)
            except RayError as error:
                log.warning("router_left_hard", error=str(error).partition("\n")[0])
            ray.kill(self._router, no_restart=True)
        if self._mesh is not None:
            self._mesh.close()
        started = self._addresses is not None and self._addresses.done() and self._addresses.exception() is None
        return self._addresses.result() if self._addresses is not None and started else None


def start_manager(cluster: RayCluster) -> Addresses:
    """Start a cluster, or find the one that runs; needs ``ray.init`` with the namespace :data:`NAMESPACE`.

    Raises:
        SettingsError: it can't be started as it is configured; nothing of it is left.
    """
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
        .remote(cluster, new_token())
    )
    try:
        addresses: Addresses = ray.get(manager.start.remote())
    except RayTaskError as error:
        ray.get(manager.stop.remote())
        ray.kill(manager, no_restart=True)
        # As it was raised there: Ray's own has the manager's traceback for a text.
        raise (error.cause if isinstance(error.cause, SettingsError) else error) from None
    return addresses


def stop_manager() -> Addresses | None:
    """Where the cluster was that has been stopped. Raises SettingsError: no cluster runs there."""
    try:
        manager = ray.get_actor(MANAGER, namespace=NAMESPACE)
    except ValueError:
        raise SettingsError("no cluster of Segue's runs on this Ray cluster; nothing was stopped") from None
    addresses: Addresses | None = ray.get(manager.stop.remote())
    ray.kill(manager, no_restart=True)
    return addresses
