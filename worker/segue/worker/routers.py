"""Which routers there are: the addresses behind the configured names, looked up again and again."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable, Mapping

from segue.worker.attachment import Attachment

_LOOKUP_INTERVAL_S = 1.0


async def resolve_router(name: str) -> set[str] | None:
    """Every address (host:port) behind a router's name; None if it can't be looked up now."""
    host, _, port = name.rpartition(":")
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, int(port), type=socket.SOCK_STREAM, family=socket.AF_INET)
    except socket.gaierror:
        return None
    return {":".join(map(str, sockaddr[:2])) for *_, sockaddr in found}


def _siblings(told: Mapping[str, Iterable[int]]) -> set[str]:
    """Addresses of further processes, by what routers have said of their ports."""
    return {f"{address.rpartition(':')[0]}:{port}" for address, ports in told.items() for port in ports}


class RouterStreams:
    """The attachments to all routers, which a worker that turns ends and begins anew."""

    def __init__(
        self, tasks: asyncio.TaskGroup, names: Iterable[str], new_attachment: Callable[[str], Attachment]
    ) -> None:
        self._tasks = tasks
        self._names = tuple(names)
        self._new_attachment = new_attachment
        self._seen: set[str] = set()
        self._attached: asyncio.Task[None] | None = None

    def begin(self) -> None:
        staying = stay_attached(self._names, self._new_attachment, self._seen)
        self._attached = self._tasks.create_task(staying, name="routers")

    async def end(self) -> None:
        """Cut all streams, those too that are only being dialled."""
        if self._attached is not None:
            self._attached.cancel()
            await asyncio.wait([self._attached])


async def stay_attached(
    names: Iterable[str], new_attachment: Callable[[str], Attachment], seen: set[str] | None = None
) -> None:
    """One attachment for each process of each router there is. Never returns; ends with an attachment's refusal or
    cancellation.

    ``seen`` is kept up to date with their addresses. What is in it at first is dialled at once, without waiting for
    the routers to tell of each other. A name that can't be looked up stands for what it stood for last: a name
    server's fault must not cut streams.
    """
    addresses_of: dict[str, set[str]] = {}
    attached: dict[str, tuple[Attachment, asyncio.Task[None]]] = {}
    seen = set() if seen is None else seen
    known = set(seen)
    async with asyncio.TaskGroup() as tasks:
        while True:
            for name in names:
                found = await resolve_router(name)
                addresses_of[name] = addresses_of.get(name, set()) if found is None else found
            listed = set[str]().union(*addresses_of.values())
            told = {address: one.ports for address, (one, _) in attached.items() if address in listed}
            addresses = listed | _siblings(told) | known
            known.clear()
            seen.clear()
            seen |= addresses
            for address in addresses - attached.keys():
                attachment = new_attachment(address)
                attached[address] = attachment, tasks.create_task(attachment.run(), name=f"router {address}")
            for address in attached.keys() - addresses:
                attached.pop(address)[1].cancel()
            await asyncio.sleep(_LOOKUP_INTERVAL_S)
