"""What ``segue status`` shows of whoever scales the pools."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

    from segue.cluster.pools_access import PoolsAt
    from segue.proto.pools_pb2 import PoolsState

_DEFAULT_ADDRESS = "127.0.0.1:9000"


@dataclass(frozen=True)
class Found:
    """A router's public gRPC (host:port), the CA to trust there ("": nothing known of one), and the cluster's pools."""

    address: str
    ca: str
    pools: PoolsAt | None


def where(address: str, cluster: str, certs: Path | None) -> Found:
    """What isn't given is found on this machine, where anything is known of it. Raises SettingsError."""
    from segue.cluster.cert_files import OPERATOR, files_of
    from segue.cluster.run_files import find_pools, running

    here = running()
    if not address:
        address = here[0].grpc if len(here) == 1 else _DEFAULT_ADDRESS
    run = next((run for run in here if run.grpc == address), None)
    folder = certs or (Path(run.certs) if run is not None and run.certs else None)
    cluster = cluster or ("" if run is None else run.pools)
    pools = find_pools(cluster, certs) if cluster else None
    return Found(address, "" if folder is None else files_of(folder, OPERATOR).ca, pools)


async def pools_state(pools: PoolsAt, timeout_s: float) -> PoolsState | None:
    """None, and a line on stderr, if it doesn't answer: the router's part of the picture is worth showing without."""
    import grpc.aio

    from segue.proto.pools_pb2 import ListPoolsRequest

    async with pools.stub() as stub:
        try:
            return await stub.List(ListPoolsRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            print(f"segue: {pools.problem(error)}", file=sys.stderr)
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
