"""The soak's clients: requests through every door, each answer held against the undisturbed one."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from reliability.asks import Answer, Ask, difference, make_asks, with_stop_string
from reliability.send import DOORS, Door, Doors, Ending, Patience, grpc_unary, http_unary, send

_TIMEOUT_S = 40.0


@dataclass(frozen=True, slots=True)
class Known:
    """A request and its undisturbed answer."""

    ask: Ask
    answer: Answer


async def undisturbed(doors: Doors, seed: int, count: int) -> tuple[list[Known], int]:
    """The answers without faults; and how many requests were left out because asking twice gave two answers.

    Asked alone over gRPC and then eight at once over HTTP: an answer that depends on its neighbours in a step proves
    nothing of faults.
    """
    known = [Known(ask, await _ask(doors, ask)) for ask in make_asks(seed, count)]
    greedy = [one for one in known[: count // 3] if one.ask.name == "greedy"]
    stopped = [ask for one in greedy if (ask := with_stop_string(one.ask, one.answer)) is not None]
    known += [Known(ask, await _ask(doors, ask)) for ask in stopped]
    room = asyncio.Semaphore(8)

    async def repeats(one: Known) -> bool:
        async with room:
            ending = await send(http_unary, doors, one.ask, Patience(60.0))
            return ending.kind == "ok" and difference(ending.answer, one.answer, complete=True) is None

    same = await asyncio.gather(*map(repeats, known))
    steady = [one for one, repeated in zip(known, same, strict=True) if repeated]
    return steady, len(known) - len(steady)


async def _ask(doors: Doors, ask: Ask) -> Answer:
    ending = await send(grpc_unary, doors, ask, Patience(60.0))
    if ending.kind != "ok":
        raise RuntimeError(f"an undisturbed request ended {ending.kind}: {ending.detail}")
    return ending.answer


@dataclass(frozen=True, slots=True)
class Finished:
    """One request's ending, and what is wrong with it if anything is."""

    ask: Ask
    door: str
    patience: Patience
    ending: Ending
    wrong: str | None


@dataclass
class Clients:
    """So many clients at once, until told to pause or stop. Decided by the seed, but for timing."""

    doors: Doors
    known: list[Known]
    count: int
    seed: int
    on_end: Callable[[Finished], None]
    going: asyncio.Event = field(default_factory=asyncio.Event)
    stopping: bool = False
    dropped: int = 0
    _running: set[asyncio.Task[None]] = field(default_factory=set)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(self.count):
                group.create_task(self._client(random.Random(f"client {self.seed} {number}")))

    def cancel_all(self) -> int:
        """Have every client drop its request now; how many there were."""
        for task in self._running:
            task.cancel()
        self.dropped += len(self._running)
        return len(self._running)

    async def quiet(self) -> None:
        """Send nothing more and wait for what runs."""
        self.going.clear()
        if self._running:
            await asyncio.wait(self._running)

    async def stop(self) -> None:
        await self.quiet()
        self.stopping = True
        self.going.set()

    async def _client(self, draw: random.Random) -> None:
        while True:
            await self.going.wait()
            if self.stopping:
                return
            known, door = draw.choice(self.known), draw.choice(DOORS)
            timeout_s = draw.uniform(0.05, 1.5) if draw.random() < 0.05 else _TIMEOUT_S
            parts = draw.randint(1, 20) if draw.random() < 0.1 else 0
            task = asyncio.create_task(self._one(known, door, Patience(timeout_s, parts)))
            self._running.add(task)
            try:
                await asyncio.wait({task})
            finally:
                task.cancel()
                self._running.discard(task)
            if not task.cancelled():
                task.result()
            await asyncio.sleep(draw.expovariate(4.0))

    async def _one(self, known: Known, door: Door, patience: Patience) -> None:
        ending = await send(door, self.doors, known.ask, patience)
        wrong = difference(ending.answer, known.answer, complete=ending.kind == "ok")
        self.on_end(Finished(known.ask, door.__name__, patience, ending, wrong))
