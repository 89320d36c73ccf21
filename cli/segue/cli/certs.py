"""``segue certs``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segue.cli.failures import fail, settings_errors

_HOSTS = ["localhost", "127.0.0.1"]


def certs(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where they go; made if need be.")],
    prefill: Annotated[int, typer.Option(min=0, help="Prefill workers: prefill-0, prefill-1, ...")] = 1,
    decode: Annotated[int, typer.Option(min=0, help="Decode workers: decode-0, decode-1, ...")] = 1,
    flex: Annotated[int, typer.Option(min=0, help="Workers that may turn: flex-0, flex-1, ...")] = 0,
    worker: Annotated[
        list[str], typer.Option(metavar="ROLE/ID", help="One more worker, as prefill/gpu-7 or flex/gpu-8. Repeatable.")
    ] = [],  # noqa: B006 - typer copies it
    client: Annotated[list[str], typer.Option(help="A client's name. Repeatable.")] = ["client"],  # noqa: B006
    host: Annotated[list[str], typer.Option(help="Name or address of the router to clients. Repeatable.")] = _HOSTS,
    days: Annotated[float, typer.Option(min=0.001, max=30, help="How long they are valid.")] = 7.0,
    rotate: Annotated[bool, typer.Option("--rotate", help="New certificates under the CA that is there.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a CA that is there, and all it signed.")] = False,
) -> None:
    """Make a CA and certificates for a development cluster: a router, workers, an operator and clients.

    Processes that run pick up rotated certificates by themselves. Not for production: the CA's key lies beside them.
    """
    if rotate and force:
        raise fail("--rotate keeps the CA and --force replaces it; give one of them", 2)
    with settings_errors():
        from segue.cluster.certs import holders, issue, make_ca, worker_holder

        others = [worker_holder(role_and_id) for role_and_id in worker]
        if not rotate:
            make_ca(folder, force=force)
        for holder in [*holders({"prefill": prefill, "decode": decode, "flex": flex}, client, host), *others]:
            named = ", ".join(str(one) for one in (holder.identity, holder.other) if one is not None)
            print(f"{issue(folder, holder, days=days).cert}  {named}")
    print(f"{folder / 'ca.crt'} is what peers and clients trust; the certificates are valid for {days:g} days")
