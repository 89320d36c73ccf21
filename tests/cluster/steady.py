"""A steady load on real engines, whose answers are held against a plain engine's once it is over."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from segue.base.errors import SegueError
from segue.client import Connection, FleetClient, SegueClient
from tests.e2e.reference import Case, Reference

ANSWER_TOKENS = 48
GREEDY: dict[str, Any] = {"temperature": 0.0, "max_tokens": ANSWER_TOKENS, "ignore_eos": True}
# A first token that is late on a busy machine refuses nothing, and every request uses both pools.
ROUTER_ARGS = (
    *("--log-requests", "--log-format", "json", "--disaggregation", "always"),
    *("--max-queue-s", "300", "--slo-class", "chat=ttft_s:300,tokens_per_s:1"),
)


@dataclass
class SteadyLoad:
    """So many clients, each of which asks again as soon as it has its answer, never the same question twice."""

    client: SegueClient
    clients: int = 4
    answers: list[tuple[Case, tuple[int, ...]]] = field(default_factory=list)
    failed: list[SegueError] = field(default_factory=list)
    continued: list[str] = field(default_factory=list)  # Why answers went on elsewhere.

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While the block runs. What is under way at its end is waited for."""
        over = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.clients):
                tasks.create_task(self._ask_until(over, random.Random(number)))
            try:
                yield
            finally:
                over.set()

    async def more(self, answers: int) -> None:
        """Wait until there have been so many more of them."""
        wanted = len(self.answers) + answers
        while len(self.answers) < wanted and not self.failed:
            await asyncio.sleep(0.05)

    async def _ask_until(self, over: asyncio.Event, draw: random.Random) -> None:
        while not over.is_set():
            case = Case(tuple(draw.randrange(3, 1000) for _ in range(draw.randrange(20, 300))), GREEDY)
            try:
                answer = await self.client.generate(case.prompt, timeout_s=300.0, **case.sampling)
            except SegueError as error:
                self.failed.append(error)
                return
            self.answers.append((case, answer.token_ids))
            self.continued += [one.reason for one in answer.timings.continuations]

    def told(self, used: Mapping[str, float]) -> str:
        """For the page of figures; ``used`` is seconds by worker."""
        words = ", ".join(f"{worker} {seconds:.2f} s" for worker, seconds in used.items())
        reasons = "; ".join(f"{times} x {reason}" for reason, times in Counter(self.continued).items()) or "none"
        return f"{len(self.answers)} answers; went on elsewhere: {reasons}; used after it was ready: {words}"

    def changed(self, reference: Reference) -> list[Case]:
        """Whose answer is another one than an engine gives that nothing happens to."""
        expected = reference.answer_together([case for case, _ in self.answers])
        return [case for (case, seen), due in zip(self.answers, expected, strict=True) if seen != due]


@dataclass(frozen=True)
class RouterLog:
    """What the router says of itself; there with ``--log-format json --log-requests``."""

    file: Path

    def lines(self, event: str) -> list[dict[str, Any]]:
        lines = (json.loads(line) for line in self.file.read_text().splitlines() if line.startswith("{"))
        return [line for line in lines if line["event"] == event]

    def used_after_s(self, worker_id: str) -> float:
        """From when the worker was last ready until it had the first leg of a request that ended well."""
        ready_s = max(_unix_s(line) for line in self.lines("worker_ready") if line["worker_id"] == worker_id)
        began = [begun for line in self.lines("request") if (begun := _leg_began_s(line, worker_id)) is not None]
        return min((begun for begun in began if begun >= ready_s), default=float("inf")) - ready_s


def _unix_s(line: dict[str, Any]) -> float:
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def _leg_began_s(line: dict[str, Any], worker_id: str) -> float | None:
    """When the worker was given its part of a request; None if it had none."""
    accepted_s = _unix_s(line) - line["end_to_end_s"]
    if line["prefill_worker"] == worker_id:
        return float(accepted_s + line["queue_s"])
    return float(accepted_s + line["ttft_s"]) if line["decode_worker"] == worker_id else None


async def at_baseline(connection: Connection, workers: set[str], within_s: float = 60.0) -> None:
    """Those workers, and no other, are attached, and after a while hold nothing: no request, no offer, no block."""
    async with FleetClient(connection) as client, asyncio.timeout(within_s):
        while True:
            seen = (await client.state()).workers
            held = [
                worker.worker_id
                for worker in seen
                if worker.load.free_blocks != worker.facts.kv_blocks
                or worker.load.running_requests + worker.load.waiting_requests + worker.load.held_offers
            ]
            if not held and {worker.worker_id for worker in seen} == workers:
                return
            await asyncio.sleep(0.2)


def left_empty(log_file: Path) -> bool:
    """Whether a worker that was let go said that it has left with nothing running and no lease outstanding."""
    lines = [json.loads(line) for line in log_file.read_text().splitlines() if line.startswith("{")]
    leaving = [line for line in lines if line["event"] == "leaving"]
    return bool(leaving) and (leaving[-1]["status"], leaving[-1]["requests"], leaving[-1]["held_offers"]) == (0, 0, 0)
