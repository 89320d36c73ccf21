"""A network link on which transfers wait for each other."""

from __future__ import annotations

import asyncio


class Link:
    """First come, first served. All in real seconds: ``bytes_per_s`` and ``latency_s`` have the simulation's speed."""

    def __init__(self, bytes_per_s: float, latency_s: float) -> None:
        self._bytes_per_s = bytes_per_s
        self._latency_s = latency_s
        self._busy_until_s = 0.0

    async def move(self, size_bytes: int) -> None:
        """Return when so many bytes have arrived. Who is cancelled meanwhile has used the link all the same."""
        now_s = asyncio.get_running_loop().time()
        self._busy_until_s = max(now_s, self._busy_until_s) + size_bytes / self._bytes_per_s
        await asyncio.sleep(self._busy_until_s + self._latency_s - now_s)
