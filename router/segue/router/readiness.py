"""``GET /readyz``: whether the router can serve, and what its workers are doing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web

from segue.proto.worker_pb2 import Role, WorkerState
from segue.router.workers.fleet import FleetSnapshot
from segue.router.workers.links import WorkerLinks


def readiness(fleet: FleetSnapshot) -> dict[str, Any]:
    """``{"ready": ..., "workers": [{"worker_id", "role", "state", "detail", "simulated"}]}``.

    Ready with a worker in each pool.
    """
    return {
        "ready": bool(fleet.ready(Role.ROLE_PREFILL) and fleet.ready(Role.ROLE_DECODE)),
        "workers": [
            {
                "worker_id": worker.worker_id,
                "role": Role.Name(worker.role).removeprefix("ROLE_").lower(),
                "state": WorkerState.Name(worker.state).removeprefix("WORKER_STATE_").lower(),
                "detail": worker.detail,
                "simulated": worker.facts.simulated,
            }
            for worker in fleet.workers
        ],
    }


def add_readiness(app: web.Application, links: WorkerLinks, draining: Callable[[], bool]) -> None:
    """A router that drains is not ready, whatever its workers are: a load balancer is to send it nothing new."""

    async def readyz(request: web.Request) -> web.Response:
        body = readiness(links.snapshot())
        body |= {"ready": body["ready"] and not draining(), "draining": draining()}
        return web.json_response(body, status=200 if body["ready"] else 503)

    app.router.add_get("/readyz", readyz)
