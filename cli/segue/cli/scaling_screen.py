"""What ``segue status`` and ``segue top`` show of whoever scales the pools."""

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


async def pools_state(pools: PoolsAt, timeout_s: float, *, quiet: bool = False) -> PoolsState | None:
    """None, and unless ``quiet`` a line on stderr, if it doesn't answer: the router's part of the picture is worth
    showing without."""
    import grpc.aio

    from segue.proto.pools_pb2 import ListPoolsRequest

    async with pools.stub() as stub:
        try:
            return await stub.List(ListPoolsRequest(), timeout=timeout_s)
        except grpc.aio.AioRpcError as error:
            if not quiet:
                print(f"segue: {pools.problem(error)}", file=sys.stderr)
            return None


def is_scaled(pools: PoolsState | None) -> bool:
    """Whether there is a policy that says something."""
    return pools is not None and pools.scaling_mode not in ("", "off")


def scaling_table(pools: PoolsState, *, one_line: bool = False) -> RenderableType:
    """Each pool's number of workers, the policy's, and why; ``one_line``: the reason as far as it fits."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from segue.cli.fleet_cells import recommended_text, role_name, under_way_text

    table = Table(box=None, expand=True)
    for title in ("pool", "workers", "recommended", "under way"):
        table.add_column(title, no_wrap=True)
    table.add_column("why", ratio=1, no_wrap=one_line, overflow="ellipsis" if one_line else "fold")
    for pool in pools.pools:
        why = pool.reason or "nothing decided yet"
        table.add_row(role_name(pool.role), str(pool.desired), recommended_text(pool), under_way_text(pool), why)
    shown = (Text(f"scaling: {pools.scaling_mode}", style="bold"), table)
    return Group(*shown) if one_line else Group(Text(), *shown)


def scaling_lines(pools: PoolsState) -> int:
    """What the table takes, with its reasons in one line each."""
    return 2 + len(pools.pools)
