"""The soak's faults: a random one every few seconds, all decided by the seed."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from reliability.soak_cluster import DECODE, PREFILL, SoakCluster

# One worker of each pool lives through the whole soak: its memory and descriptors are what is watched.
WITNESSES = ("prefill-1", "decode-1")
_ROUTER_BACK_S = 15.0


@dataclass
class Faults:
    """Injects one fault at a time. ``log`` has (seconds since the start, what, whom)."""

    cluster: SoakCluster
    draw: random.Random
    cancel_all: Callable[[], int]
    kill_router: bool = True
    log: list[tuple[float, str, str]] = field(default_factory=list)
    router_killed_s: list[float] = field(default_factory=list)
    _start_s: float = field(default_factory=time.monotonic)

    async def inject(self) -> None:
        kinds = ["kill", "kill", "stall", "stall", "link stalled", "link cut", "drain", "cancel all", "kill router"]
        kind = self.draw.choice(kinds)
        if kind == "kill router" and not self.kill_router:
            kind = "cancel all"
        if kind in {"kill", "drain"}:
            pool = self.draw.choice((PREFILL, DECODE))
            if not await self.cluster.ready(pool):  # A pool is to keep one worker; at the start it has two.
                kind = "link cut"
            else:
                victim = next(name for name in pool if name not in WITNESSES)
                self._signal(kind, victim, signal.SIGKILL if kind == "kill" else signal.SIGTERM)
                return
        if kind == "kill router":
            self.router_killed_s.append(time.monotonic())
            self._signal(kind, "router", signal.SIGKILL)
        elif kind == "stall":
            await self._stall(self.draw.choice(PREFILL + DECODE), self.draw.choice((0.5, 2.0, 4.0, 7.0)))
        elif kind == "cancel all":
            self._note(kind, f"{self.cancel_all()} requests")
        else:
            name = self.draw.choice(PREFILL)
            link = self.cluster.links[name]
            self._note(kind, name)
            if kind == "link cut":
                link.cut()
                return
            link.stall()
            try:
                await asyncio.sleep(self.draw.choice((0.5, 2.0, 6.0)))
            finally:
                link.heal()

    def router_was_down(self, sent_s: float, ended_s: float) -> bool:
        """Whether the router was killed, or coming back, between these two times."""
        return any(killed_s < ended_s and sent_s < killed_s + _ROUTER_BACK_S for killed_s in self.router_killed_s)

    def counts(self) -> dict[str, int]:
        return dict(Counter(kind for _, kind, _ in self.log))

    async def _stall(self, name: str, seconds: float) -> None:
        pid = self.cluster.pid(name)
        if pid is None:
            return
        self._note("stall", f"{name} for {seconds:g} s")
        os.kill(pid, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            if self.cluster.pid(name) == pid:
                os.kill(pid, signal.SIGCONT)

    def _signal(self, kind: str, name: str, signum: signal.Signals) -> None:
        pid = self.cluster.pid(name)
        if pid is not None:
            self._note(kind, name)
            os.kill(pid, signum)

    def _note(self, kind: str, whom: str) -> None:
        self.log.append((round(time.monotonic() - self._start_s, 1), kind, whom))
