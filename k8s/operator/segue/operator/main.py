"""The operator's process: kopf tells what has changed, the controller looks, one cluster's pools are served."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import aiohttp
import kopf

from segue.base.errors import SettingsError
from segue.base.logging import get_logger
from segue.base.tls import TlsFiles, load_tls
from segue.cluster.manager import serve_pools
from segue.operator.api import Api, ApiError, LoginSource
from segue.operator.controller import Controller, Generations
from segue.operator.kubernetes_pools import KubernetesPools
from segue.operator.login import login
from segue.operator.names import GROUP, VERSION
from segue.operator.reconciler import Reconciler
from segue.operator.workers import GrpcWorkers, Workers

log = get_logger("operator")


@dataclass(frozen=True, slots=True)
class OperatorSettings:
    """``namespaces`` empty: all of them. ``pools_of`` is the (namespace, PDCluster) whose ``segue.v1.Pools`` is served
    at ``pools_port`` of the pod's loopback; None serves none."""

    namespaces: tuple[str, ...] = ()
    health_port: int = 8080
    pools_of: tuple[str, str] | None = None
    pools_port: int = 9600
    mesh: TlsFiles | None = None


def run(settings: OperatorSettings) -> None:
    """Until a signal. Raises SettingsError: it can't run as configured."""
    # kopf has a line for every event that it hands over.
    logging.getLogger("kopf").setLevel(logging.WARNING)
    asyncio.run(operate(settings))


async def operate(
    settings: OperatorSettings,
    *,
    login_source: LoginSource = login,
    workers: Workers | None = None,
    stop: threading.Event | None = None,
    ready: threading.Event | None = None,
) -> None:
    """The same inside a loop; ``stop`` ends it as a signal would. The rest is for tests.

    Raises:
        SettingsError: as :func:`run`; the API server isn't reached, or has no definitions of our kinds.
    """
    mesh = load_tls(settings.mesh)
    workers = workers or GrpcWorkers(mesh)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api(login_source))
        # Of kinds that come later kopf wouldn't hear.
        if missing := {"PDCluster", "PDPool"} - await _kinds(api):
            raise SettingsError(
                f"the API server has no definition of {' and '.join(sorted(missing))}; apply k8s/components/operator "
                "first"
            )
        if settings.pools_of is not None:
            pools = await stack.enter_async_context(KubernetesPools(api, *settings.pools_of))
            address = await stack.enter_async_context(serve_pools(pools, port=settings.pools_port))
            log.info("pools_served", address=address, cluster="/".join(settings.pools_of))
        async with asyncio.TaskGroup() as tasks:
            controller = Controller(lambda: Reconciler(api, workers, mesh), tasks)
            health = f"http://0.0.0.0:{settings.health_port}/healthz" if settings.health_port else None
            await kopf.operator(
                registry=handlers(controller, login_source),
                settings=_kopf_settings(),
                clusterwide=not settings.namespaces,
                namespaces=settings.namespaces,
                standalone=True,
                liveness_endpoint=health,
                stop_flag=stop,
                ready_flag=ready,
            )


async def _kinds(api: Api) -> set[str]:
    try:
        return await api.kinds()
    except (ApiError, aiohttp.ClientError, OSError) as error:
        raise SettingsError(f"the API server can't be asked what it knows: {error}") from error


def handlers(controller: Controller, login_source: LoginSource) -> kopf.OperatorRegistry:
    """What kopf calls. Only our own kinds are watched: it would have every pod of every namespace sent to filter them
    here. What pods do is seen by looking, which asks the server for a cluster's own."""
    registry = kopf.OperatorRegistry()
    generations = Generations()

    @kopf.on.login(registry=registry)
    def _login(**_: Any) -> Any:
        return login_source()

    @kopf.on.event(GROUP, VERSION, "pdclusters", registry=registry)
    async def _cluster(*, type: str | None, body: kopf.Body, **_: Any) -> None:
        if generations.changed(type, body):
            controller.wake(body["metadata"]["namespace"], body["metadata"]["name"])

    @kopf.on.event(GROUP, VERSION, "pdpools", registry=registry)
    async def _pool(*, type: str | None, body: kopf.Body, **_: Any) -> None:
        if generations.changed(type, body):
            controller.wake(body["metadata"]["namespace"], body["spec"]["cluster"])

    @kopf.on.cleanup(registry=registry)
    async def _end(**_: Any) -> None:
        # kopf waits for every task that is younger than itself.
        controller.stop()

    return registry


def _kopf_settings() -> kopf.OperatorSettings:
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False  # The reconciler writes its own events.
    settings.scanning.disabled = True  # Needs rights on all CRDs, to learn of kinds that come later: ours are there.
    return settings
