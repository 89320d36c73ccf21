"""What the router says of the pools, read from its ``GET /readyz``."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import aiohttp
from pydantic import BaseModel, ConfigDict, ValidationError

from segue.base.tls import TlsFiles
from segue.base.tls_http import client_context

_POLL_S = 0.2
_REQUEST_TIMEOUT_S = 2.0

Role = Literal["prefill", "decode"]


class WorkerStatus(BaseModel):
    """One registered worker. ``state`` is one of loading, warming, ready, draining."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    worker_id: str
    role: str
    state: str
    detail: str = ""


class Readiness(BaseModel):
    """One answer of the router. ``reachable`` is False while it doesn't answer at all."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    ready: bool
    workers: tuple[WorkerStatus, ...] = ()
    reachable: bool = True

    def ready_workers(self, role: Role) -> int:
        """How many workers of this role are ready."""
        return Counter(worker.role for worker in self.workers if worker.state == "ready")[role]


UNREACHABLE = Readiness(ready=False, reachable=False)


def is_complete(readiness: Readiness, prefill: int, decode: int) -> bool:
    """Whether the router is ready and so are this many workers of each role."""
    return (
        readiness.ready
        and readiness.ready_workers("prefill") >= prefill
        and readiness.ready_workers("decode") >= decode
    )


class NotReadyInTime(Exception):
    """The pools did not become ready before the limit."""


async def read_readiness(session: aiohttp.ClientSession, http_url: str) -> Readiness:
    """One poll. A router that doesn't answer, or not in the agreed form yet, is unreachable."""
    try:
        timeout = aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
        async with session.get(f"{http_url}/readyz", timeout=timeout) as response:
            return Readiness.model_validate_json(await response.read())
    except (aiohttp.ClientError, TimeoutError, ValidationError):
        return UNREACHABLE


@dataclass(frozen=True)
class RouterHttp:
    """Where a router's HTTP is; ``tls`` is what an https URL needs."""

    url: str
    tls: TlsFiles | None = None

    def connector(self) -> aiohttp.TCPConnector:
        return aiohttp.TCPConnector() if self.tls is None else aiohttp.TCPConnector(ssl=client_context(self.tls))


async def wait_until_ready(
    router: RouterHttp, prefill: int, decode: int, timeout_s: float, on_progress: Callable[[Readiness], None]
) -> None:
    """Poll until all workers are ready, telling each answer to ``on_progress``.

    Raises NotReadyInTime after ``timeout_s`` with what was last seen.
    """
    latest = UNREACHABLE
    try:
        async with asyncio.timeout(timeout_s), aiohttp.ClientSession(connector=router.connector()) as session:
            while True:
                latest = await read_readiness(session, router.url)
                on_progress(latest)
                if is_complete(latest, prefill, decode):
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        seen = ", ".join(f"{worker.worker_id} {worker.state}" for worker in latest.workers) or "no workers"
        if not latest.reachable:
            seen = "a router that doesn't answer"
        raise NotReadyInTime(
            f"after {timeout_s:g} s there was {seen}; expected {prefill} prefill and {decode} decode "
            "worker(s) ready. "
            "Look into the log files, or allow more time with --startup-timeout"
        ) from None
