"""``segue status --kubernetes``: a PDCluster as its objects say it is; no router is asked."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from segue.cli.operator import namespace_and_name, needs_k8s

if TYPE_CHECKING:
    from rich.console import RenderableType

    from segue.operator.shown import ClusterObjects


async def kubernetes_status(cluster: str, as_json: bool) -> list[str]:
    """Show NAMESPACE/NAME; what of it isn't as it should be.

    Raises:
        SettingsError: it isn't NAMESPACE/NAME, or there is no kubeconfig.
        NotFound: there is no such PDCluster.
        Unavailable: the API server wasn't reached, or refuses.
    """
    from rich.console import Console

    from segue.base.errors import NotFound, Unavailable
    from segue.cli.plain import plain
    from segue.cluster.pools_service import message_of

    namespace, name = namespace_and_name(cluster)
    with needs_k8s():
        import aiohttp

        from segue.operator.api import Api, ApiError
        from segue.operator.login import login
        from segue.operator.shown import read_cluster, troubles, view_of
    async with Api(login) as api:
        try:
            seen = await read_cluster(api, namespace, name)
        except ApiError as error:
            raise Unavailable(f"the API server refuses: {error.message}") from None
        except (aiohttp.ClientError, OSError) as error:
            raise Unavailable(f"the API server wasn't reached: {error}") from None
    if seen.cluster is None:
        raise NotFound(f"there is no PDCluster {name} in namespace {namespace}")
    if as_json:
        status = seen.cluster.get("status", {})
        print(json.dumps({"cluster": status, "managed_pools": plain(message_of(view_of(seen)))}, indent=2))
    else:
        # Piped, there is no width to keep to.
        console = Console() if sys.stdout.isatty() else Console(width=200)
        console.print(_screen(cluster, seen, console.width))
    return troubles(seen.cluster)


def _screen(cluster: str, seen: ClusterObjects, width: int) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from segue.cli.pools_table import pools_table
    from segue.cli.scaling_screen import scaling_table
    from segue.cluster.pools_service import message_of
    from segue.operator.shown import view_of

    view = view_of(seen)
    pools = Table("pool", "workers", "ready", "draining", "waiting tokens", box=None)
    for name, pool in seen.pools.items():
        told = pool.get("status", {})
        figures = [told.get(field) for field in ("ready", "draining", "backlogTokens")]
        pools.add_row(name, str(pool["spec"]["replicas"]), *("" if one is None else f"{one:,}" for one in figures))
    status = (seen.cluster or {}).get("status", {})
    conditions = Table("condition", "", "why", box=None)
    for one in status.get("conditions") or []:
        conditions.add_row(one["type"], one["status"], f"{one['reason']}: {one['message']}")
    title = Text(f"{cluster}  {status.get('endpoint', '')}", style="bold")
    # Only mode Joint decides anything; else it says whose business that is.
    joint = view.scaling_mode == "Joint"
    scaling = scaling_table(message_of(view)) if joint else Text(f"\nscaling: {view.scaling_mode}", style="bold")
    return Group(title, Text(), conditions, Text(), pools, Text(), pools_table(view, width), scaling)
