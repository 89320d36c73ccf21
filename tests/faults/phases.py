"""Brings a request into a phase and keeps it there until the fault has met it.

With the gRPC transport a held link does that. NIXL's bytes pass no proxy, so there processes are stopped instead.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from tests.faults.asks import Ask
from tests.faults.cells import COMPARED_TOKENS, Cell, Phase
from tests.faults.cluster import Cluster
from tests.faults.proxy import wait_until_held

if TYPE_CHECKING:
    from segue.proto.inference_pb2_grpc import InferenceAsyncStub


# Enough for both prefill workers to be busy for seconds, the second one a little longer: the request goes to the first.
_BLOCKER_TOKENS = (3000, 3050, 3000, 3050, 3000, 3050)
_REACHED_S = 20.0
_PART_OF_A_TRANSFER_BYTES = 400_000


class Stage:
    """One cell's request and those around it."""

    def __init__(self, cell: Cell, cluster: Cluster, stub: InferenceAsyncStub, seed: int) -> None:
        self.cell = cell
        self.cluster = cluster
        self.blockers: list[Ask] = []
        self._stub = stub
        self._seed = seed

    async def reach(self) -> Ask:
        """The request, in its phase."""
        reach: dict[Phase, Callable[[], Awaitable[Ask]]] = {
            Phase.QUEUED: self._queued,
            Phase.PREFILLING: self._prefilling,
            Phase.OFFERED: self._offered,
            Phase.TRANSFERRING: self._transferring,
            Phase.DECODING: lambda: self._after(COMPARED_TOKENS // 4),
            Phase.FINISHING: lambda: self._after(COMPARED_TOKENS - 1),
        }
        async with asyncio.timeout(_REACHED_S):
            return await reach[self.cell.phase]()

    def go_on(self) -> None:
        """Let go of what kept the request in its phase."""
        for link in self.cluster.links.values():
            link.release()
        for worker in self.cluster.workers:
            if self.cluster.members[worker].stopped:
                self.cluster.members[worker].signal(signal.SIGCONT)

    def ask(self, prompt: tuple[int, ...], max_tokens: int, timeout_s: float) -> Ask:
        return Ask(self._stub, prompt, max_tokens, timeout_s)

    def _begin(self) -> Ask:
        return self.ask(self.cell.prompt(self._seed), self.cell.answer_tokens, self.cell.timeout_s)

    async def _queued(self) -> Ask:
        draw = random.Random(f"{self._seed}/{self.cell.name}/blockers")
        for tokens in _BLOCKER_TOKENS:
            prompt = tuple(draw.randrange(3, 1000) for _ in range(tokens))
            self.blockers.append(self.ask(prompt, 1, 60.0))
            await asyncio.sleep(0.01)  # They are to arrive in this order.
        ask = self._begin()
        await asyncio.sleep(0.1)
        assert not ask.tokens, "it was not queued"
        return ask

    async def _prefilling(self) -> Ask:
        ask = self._begin()
        await asyncio.sleep(0.15)
        assert not ask.tokens, "its prompt was computed before the fault"
        return ask

    async def _offered(self) -> Ask:
        if self.cluster.transport == "nixl":
            for decode in self.cluster.of_role("decode"):
                decode.signal(signal.SIGSTOP)
        else:
            for link in self.cluster.links.values():
                link.reset()
                link.hold()
        ask = self._begin()
        await ask.seen(1)
        return ask

    async def _transferring(self) -> Ask:
        if self.cluster.transport == "nixl":
            ask = await self._offered()
            for member in self.cluster.of_role("prefill"):
                member.signal(signal.SIGSTOP)
            for member in self.cluster.of_role("decode"):
                member.signal(signal.SIGCONT)
            await asyncio.sleep(0.2)
            return ask
        links = list(self.cluster.links.values())
        for link in links:
            link.hold_after(_PART_OF_A_TRANSFER_BYTES)
        ask = self._begin()
        await asyncio.to_thread(wait_until_held, links, _REACHED_S)
        return ask

    async def _after(self, tokens: int) -> Ask:
        ask = self._begin()
        await ask.seen(tokens)
        return ask
