"""What ``segue status`` shows of whoever scales the pools."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from segue.proto.pools_pb2 import PoolsState

_DEFAULT_ADDRESS = "127.0.0.1:9000"


def where(address: str, cluster: str) -> tuple[str, str]:
    """A router's public gRPC and the pools' port, each found on this machine where it isn't given; the latter is empty
    where nothing is known of it."""
    from segue.cluster.run_files import running

    here = running()
    if not address:
        address = here[0].grpc if len(here) == 1 else _DEFAULT_ADDRESS
    found = next((run.pools for run in here if run.grpc == address), "")
    return address, cluster or found


async def pools_state(cluster: str, timeout_s: float) -> PoolsState | None:
    """None, and a line on stderr, if it doesn't answer: the router's part of the picture is worth showing without."""
    import grpc.aio

    from segue.proto.pools_pb2 import ListPoolsRequest
    from segue.proto.pools_pb2_grpc import PoolsStub

    async with grpc.aio.insecure_channel(cluster) as channel:
        try:
            return await PoolsStub(channel).List(ListPoolsRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            print(f"segue: {cluster}: {error.details()}", file=sys.stderr)
            return None


def scaling_table(pools: PoolsState) -> RenderableType:
    """Each pool's number of workers, the policy's, and why."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from segue.cli.fleet_cells import role_name

    table = Table("pool", "workers", "recommended", "why", box=None, title_justify="left")
    for pool in pools.pools:
        recommended = str(pool.recommended) if pool.HasField("recommended") else ""
        table.add_row(role_name(pool.role), str(pool.desired), recommended, pool.reason or "nothing decided yet")
    return Group(Text(), Text(f"scaling: {pools.scaling_mode}", style="bold"), table)
