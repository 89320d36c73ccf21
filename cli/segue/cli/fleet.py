"""``segue status`` and ``segue top``: what a router's fleet is and does."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from segue.cli.failures import fail, settings_errors
from segue.cli.options import tls_files
from segue.cli.scale import Certs

if TYPE_CHECKING:
    from segue.proto.pools_pb2 import PoolsState

_POOLS_TIMEOUT_S = 2.0

Address = Annotated[str, typer.Option(metavar="HOST:PORT", help="A router's public gRPC.")]
AnyAddress = Annotated[
    str,
    typer.Option(
        metavar="HOST:PORT",
        help="A router's public gRPC. Default: of the cluster of yours that runs on this machine; else 127.0.0.1:9000.",
    ),
]
Pools = Annotated[
    str,
    typer.Option(
        "--cluster",
        metavar="HOST:PORT",
        envvar="SEGUE_CLUSTER",
        help="Where its pools are managed, for what the scaling policy says. Default: found on this machine.",
    ),
]
Kubernetes = Annotated[
    str,
    typer.Option(
        metavar="NAMESPACE/NAME",
        help="A PDCluster that the operator keeps, as its objects say it is; reached with kubectl's configuration. No "
        "router is asked.",
    ),
]
OperationsKey = Annotated[
    str,
    typer.Option(
        envvar="SEGUE_API_KEY", help="A key for operations, if the router has keys; better in the environment."
    ),
]
Tls = Annotated[bool, typer.Option("--tls", help="TLS, trusting the system's CAs.")]
TlsCaFile = Annotated[str, typer.Option("--tls-ca", metavar="FILE", help="TLS, trusting this CA.")]
TlsCertFile = Annotated[
    str, typer.Option("--tls-cert", metavar="FILE", help="Our certificate, if the router asks for one.")
]
TlsKeyFile = Annotated[str, typer.Option("--tls-key", metavar="FILE", help="Its key.")]


def status(
    address: AnyAddress = "",
    cluster: Pools = "",
    certs: Certs = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds the router may take to answer.")] = 5.0,
    api_key: OperationsKey = "",
    tls: Tls = False,
    tls_ca: TlsCaFile = "",
    tls_cert: TlsCertFile = "",
    tls_key: TlsKeyFile = "",
    kubernetes: Kubernetes = "",
) -> None:
    """Show pools, workers and the last minute. Exit status 0: each pool has a ready worker; 1: one has none."""
    if kubernetes:
        from segue.cli.kubernetes_status import kubernetes_status

        with settings_errors():
            _end(_run(kubernetes_status(kubernetes, as_json), kubernetes))
    from rich.console import Console
    from rich.text import Text

    from segue.base.tls import TlsFiles
    from segue.cli.columns import WIDE_COLUMNS
    from segue.cli.fleet_screen import problems, status_screen
    from segue.cli.plain import plain
    from segue.cli.pools_table import pools_table
    from segue.cli.scaling_screen import pools_state, scaling_table, where
    from segue.client import Connection, FleetClient
    from segue.cluster.pools_service import view_of
    from segue.proto.fleet_pb2 import FleetState

    async def look(connection: Connection) -> FleetState:
        async with FleetClient(connection, timeout_s=timeout) as client:
            return await client.state()

    with settings_errors():
        found = where(address, cluster, certs)
        files = tls_files(tls_cert, tls_key, tls_ca)
        if files is None and (tls or found.ca):
            files = TlsFiles() if tls else TlsFiles(ca=found.ca)
        state = _run(look(Connection(found.address, api_key or None, files)), found.address)
        pools = asyncio.run(pools_state(found.pools, timeout)) if found.pools is not None else None
    if as_json:
        seen = plain(state)
        print(json.dumps(seen if pools is None else {**seen, "managed_pools": plain(pools)}, indent=2))
    else:
        # Piped, there is no width to keep to.
        console = Console() if sys.stdout.isatty() else Console(width=200)
        console.print(status_screen(state, console.width))
        if pools is not None and console.width >= WIDE_COLUMNS:
            console.print(Text(), pools_table(view_of(pools), console.width), sep="\n")
        if pools is not None and pools.scaling_mode not in ("", "off"):
            console.print(scaling_table(pools))
    _end(problems(state))


def _end(found: Sequence[str]) -> NoReturn:
    for problem in found:
        print(f"segue: {problem}", file=sys.stderr)
    raise typer.Exit(1 if found else 0)


def top(
    address: AnyAddress = "",
    cluster: Pools = "",
    certs: Certs = None,
    interval: Annotated[float, typer.Option(min=0.2, max=60, help="Seconds between looks.")] = 1.0,
    api_key: OperationsKey = "",
    tls: Tls = False,
    tls_ca: TlsCaFile = "",
    tls_cert: TlsCertFile = "",
    tls_key: TlsKeyFile = "",
) -> None:
    """Watch a router's fleet, live: pools, workers, requests, tokens, latencies, and what the scaling policy does.
    q or Ctrl-C leaves."""
    from rich.console import Console

    from segue.base.tls import TlsFiles
    from segue.cli.scaling_screen import pools_state, where
    from segue.cli.top import watch
    from segue.client import Connection

    console = Console()
    if not console.is_terminal:
        raise fail("segue top draws on a terminal, and this is none; segue status --json is for programs", 2)
    with settings_errors():
        found = where(address, cluster, certs)
        files = tls_files(tls_cert, tls_key, tls_ca)
        if files is None and (tls or found.ca):
            files = TlsFiles() if tls else TlsFiles(ca=found.ca)

        async def ask_pools() -> PoolsState | None:
            return None if found.pools is None else await pools_state(found.pools, _POOLS_TIMEOUT_S, quiet=True)

        router = Connection(found.address, api_key or None, files)
        _run(watch(router, console, interval, ask_pools), found.address)


def _run(work: Coroutine[Any, Any, Any], address: str) -> Any:
    from segue.base.errors import SegueError

    try:
        return asyncio.run(work)
    except SegueError as error:
        raise fail(f"{address}: {error.code}: {error.message}", 2) from None
    except KeyboardInterrupt:
        raise typer.Exit(0) from None
