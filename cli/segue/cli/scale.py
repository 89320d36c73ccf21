"""``segue scale``, ``segue drain`` and ``segue turn``: how many workers each pool has, and which."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli.failures import fail, settings_errors

if TYPE_CHECKING:
    from segue.cluster.pools import PoolName, PoolsView
    from segue.cluster.pools_access import PoolsAt
    from segue.proto.pools_pb2 import DrainWorkerRequest, ScaleRequest, TurnWorkerRequest
    from segue.proto.pools_pb2_grpc import PoolsAsyncStub

Cluster = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        envvar="SEGUE_CLUSTER",
        help="Where its pools are managed, as segue up says. Default: the one of yours that runs on this machine.",
    ),
]
Certs = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Where ca.crt, operator.crt and operator.key are. Default: as the cluster was started, if that was here.",
    ),
]
Kubernetes = Annotated[
    str,
    typer.Option(
        metavar="NAMESPACE/NAME", help="A PDCluster that the operator keeps, reached with kubectl's configuration."
    ),
]
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until those that leave have left.")]
WaitTurned = Annotated[bool, typer.Option("--wait/--no-wait", help="Stay until it has turned.")]


def scale(
    targets: Annotated[list[str], typer.Argument(metavar="POOL=WORKERS...", help="Such as prefill=3 decode=2.")],
    cluster: Cluster = "",
    certs: Certs = None,
    kubernetes: Kubernetes = "",
    wait: Wait = True,
) -> None:
    """Give pools more workers, or fewer: those with the least work finish it and leave."""
    from segue.cluster.pools_service import ROLES
    from segue.proto.pools_pb2 import ScaleRequest

    wanted = [ScaleRequest.Target(role=ROLES[pool], workers=workers) for pool, workers in _parse(targets)]
    asyncio.run(_ask(_where(cluster, certs, kubernetes), wait, ScaleRequest(targets=wanted)))


def drain(
    worker_id: Annotated[str, typer.Argument(help="Which worker is to finish and leave.")],
    cluster: Cluster = "",
    certs: Certs = None,
    kubernetes: Kubernetes = "",
    wait: Wait = True,
) -> None:
    """Let one worker finish what it has and leave; its pool becomes one smaller."""
    from segue.proto.pools_pb2 import DrainWorkerRequest

    asyncio.run(_ask(_where(cluster, certs, kubernetes), wait, DrainWorkerRequest(worker_id=worker_id)))


def turn(
    worker_id: Annotated[str, typer.Argument(help="Which flex worker.")],
    pool: Annotated[str, typer.Argument(metavar="prefill|decode", help="The pool that it is to be in.")],
    cluster: Cluster = "",
    certs: Certs = None,
    wait: WaitTurned = True,
) -> None:
    """Have a flex worker change pools: it finishes or hands over what it has, and keeps its model and its caches.

    Exit status 1 if it was not empty in time and is back in its old pool.
    """
    from segue.cluster.pools import POOL_NAMES
    from segue.cluster.pools_service import ROLES
    from segue.proto.pools_pb2 import TurnWorkerRequest

    name = next((known for known in POOL_NAMES if known == pool), None)
    if name is None:
        raise typer.BadParameter(f"{pool!r} is no pool; write prefill or decode")
    view = asyncio.run(_ask(_where(cluster, certs), wait, TurnWorkerRequest(worker_id=worker_id, role=ROLES[name])))
    if worker_id not in {worker.worker_id for worker in view.of(name).workers}:
        raise fail(f"{worker_id} has not turned to {name}; its log file says why")


def _parse(targets: Iterable[str]) -> list[tuple[PoolName, int]]:
    """Raises typer.BadParameter for what isn't POOL=WORKERS."""
    from segue.cluster.pools import POOL_NAMES

    parsed: list[tuple[PoolName, int]] = []
    for target in targets:
        name, _, count = target.partition("=")
        pool = next((known for known in POOL_NAMES if known == name), None)
        if pool is None or not count.isdecimal():
            raise typer.BadParameter(f"{target!r} is not POOL=WORKERS; write for example prefill=3 decode=2")
        parsed.append((pool, int(count)))
    return parsed


@asynccontextmanager
async def _where(cluster: str, certs: Path | None, kubernetes: str = "") -> AsyncIterator[PoolsAt]:
    """Where ``segue.v1.Pools`` is served, and what to show there."""
    from segue.cli.operator import pools_on_kubernetes
    from segue.cluster.run_files import find_pools

    with settings_errors():
        if kubernetes:
            async with pools_on_kubernetes(kubernetes) as at:
                yield at
        else:
            yield find_pools(cluster, certs)


async def _ask(
    where: AbstractAsyncContextManager[PoolsAt],
    wait: bool,
    request: ScaleRequest | DrainWorkerRequest | TurnWorkerRequest,
) -> PoolsView:
    import grpc.aio
    from rich.console import Console

    from segue.cli.pools_table import pools_table
    from segue.cluster.pools_service import view_of
    from segue.proto.pools_pb2 import DrainWorkerRequest, TurnWorkerRequest

    async with where as at, at.stub() as stub:
        try:
            if isinstance(request, DrainWorkerRequest):
                view = view_of(await stub.Drain(request, timeout=30))
            elif isinstance(request, TurnWorkerRequest):
                view = view_of(await stub.Turn(request, timeout=30))
            else:
                view = view_of(await stub.Scale(request, timeout=30))
            if wait:
                view = await _settled(stub)
        except grpc.aio.AioRpcError as error:
            raise fail(at.problem(error)) from None
    # Piped, there is no width to keep to.
    console = Console() if sys.stdout.isatty() else Console(width=200)
    console.print(pools_table(view, console.width))
    return view


async def _settled(stub: PoolsAsyncStub) -> PoolsView:
    """The first view in which nobody leaves, turns, or is still to be chosen to leave."""
    from segue.cluster.pools_service import view_of
    from segue.proto.pools_pb2 import WatchPoolsRequest

    async for state in stub.Watch(WatchPoolsRequest()):
        view = view_of(state)
        if not any(worker.phase in ("leaving", "turning") for pool in view.pools for worker in pool.workers) and all(
            len(pool.workers) <= pool.desired for pool in view.pools
        ):
            return view
    raise fail("the cluster has stopped")
