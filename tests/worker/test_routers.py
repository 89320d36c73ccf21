from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from segue.worker import routers
from segue.worker.attachment import Attachment
from segue.worker.routers import resolve_router, stay_attached


class Names(dict[str, Sequence[str]]):
    """A name service; the event loop asks it instead of the system's."""

    async def getaddrinfo(self, host: str, port: int, **kwargs: Any) -> list[Any]:
        if host not in self:
            raise socket.gaierror(socket.EAI_NONAME, "unknown name")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self[host]]


class FakeAttachment:
    def __init__(self, address: str, running: set[str], fault: Exception | None = None) -> None:
        self._address, self._running, self._fault = address, running, fault
        self.ports: frozenset[int] = frozenset()

    async def run(self) -> None:
        self._running.add(self._address)
        try:
            if self._fault is not None:
                raise self._fault
            await asyncio.Event().wait()
        finally:
            self._running.discard(self._address)


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    made = Names()
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", made.getaddrinfo, raising=False)
    return made


async def test_an_address_resolves_to_itself() -> None:
    assert await resolve_router("127.0.0.1:8001") == {"127.0.0.1:8001"}


async def test_a_name_means_all_its_addresses_and_an_unknown_one_says_so(names: Names) -> None:
    names["routers"] = ["10.0.0.1", "10.0.0.2"]
    assert await resolve_router("routers:8000") == {"10.0.0.1:8000", "10.0.0.2:8000"}
    assert await resolve_router("gone:8000") is None


async def test_a_name_server_that_fails_cuts_no_stream(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routers, "_LOOKUP_INTERVAL_S", 0.0)
    running = set[str]()
    names["routers"] = ["10.0.0.1"]
    lookups = 0

    async def look_up(host: str, port: int, **kwargs: Any) -> list[Any]:
        nonlocal lookups
        lookups += 1
        if lookups > 2:
            raise socket.gaierror(socket.EAI_AGAIN, "try again")
        return await Names.getaddrinfo(names, host, port)

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", look_up, raising=False)
    attach = lambda address: FakeAttachment(address, running)  # noqa: E731
    task = asyncio.create_task(stay_attached(["routers:1"], attach))  # type: ignore[arg-type]
    async with asyncio.timeout(30):
        while lookups < 5:
            await asyncio.sleep(0)
    assert running == {"10.0.0.1:1"}
    task.cancel()
    await asyncio.wait([task])


async def test_attachments_follow_what_the_names_mean(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routers, "_LOOKUP_INTERVAL_S", 0.0)
    running, made = set[str](), list[str]()

    def attach(address: str) -> Attachment:
        made.append(address)
        return FakeAttachment(address, running)  # type: ignore[return-value]

    task = asyncio.create_task(stay_attached(["routers:1"], attach))
    for addresses in (["10.0.0.1"], ["10.0.0.1", "10.0.0.2"], ["10.0.0.2"], [], ["10.0.0.1"]):
        names["routers"] = addresses
        async with asyncio.timeout(30):
            while running != {f"{address}:1" for address in addresses}:
                await asyncio.sleep(0)
    assert made == ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:1"]
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert running == set()


async def test_a_refusal_ends_it_and_the_other_attachments(names: Names) -> None:
    names["good"], names["bad"] = ["10.0.0.1"], ["10.0.0.2"]
    running = set[str]()

    def attach(address: str) -> Attachment:
        fault = ValueError("refused") if address.startswith("10.0.0.2") else None
        return FakeAttachment(address, running, fault)  # type: ignore[return-value]

    with pytest.raises(ExceptionGroup) as group:
        await stay_attached(["good:1", "bad:1"], attach)
    assert group.group_contains(ValueError, match="refused")
    assert running == set()


async def test_a_router_of_several_processes_is_attached_to_at_each(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(routers, "_LOOKUP_INTERVAL_S", 0.0)
    running = set[str]()
    made: dict[str, FakeAttachment] = {}
    names["routers"] = ["10.0.0.1"]

    def attach(address: str) -> Attachment:
        made[address] = FakeAttachment(address, running)
        return made[address]  # type: ignore[return-value]

    async def until(expected: set[str]) -> None:
        async with asyncio.timeout(30):
            while running != expected:
                await asyncio.sleep(0)

    task = asyncio.create_task(stay_attached(["routers:9100"], attach))
    await until({"10.0.0.1:9100"})
    made["10.0.0.1:9100"].ports = frozenset({9100, 9101})
    await until({"10.0.0.1:9100", "10.0.0.1:9101"})
    made["10.0.0.1:9100"].ports = frozenset()
    await until({"10.0.0.1:9100"})
    task.cancel()
