"""Which routers there are: the addresses behind the configured names, looked up again and again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

from segue.worker.attachment import Attachment

_LOOKUP_INTERVAL_S = 5.0


async def resolve_routers(names: Iterable[str]) -> set[str]:
    """Every address (host:port) behind ``names``. Names that don't resolve now are left out."""
    loop = asyncio.get_running_loop()
    addresses = set[str]()
    for name in names:
        host, _, port = name.rpartition(":")
        try:
            found = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, family=socket.AF_INET)
        except socket.gaierror:
            continue
        addresses.update(":".join(map(str, sockaddr[:2])) for *_, sockaddr in found)
    return addresses


async def stay_attached(names: Iterable[str], new_attachment: Callable[[str], Attachment]) -> None:
    """One attachment for each router there is. Never returns; ends with an attachment's refusal or cancellation."""
    attached: dict[str, asyncio.Task[None]] = {}
    async with asyncio.TaskGroup() as tasks:
        while True:
            addresses = await resolve_routers(names)
            for address in addresses - attached.keys():
                attached[address] = tasks.create_task(new_attachment(address).run(), name=f"router {address}")
            for address in attached.keys() - addresses:
                attached.pop(address).cancel()
            await asyncio.sleep(_LOOKUP_INTERVAL_S)
