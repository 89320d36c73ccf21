"""Steady streams that notice every answer which is not what it was before anything was done to the cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from segue.client import SegueClient


class Streams:
    """Prompts that are asked again and again, several at a time. ``expected`` has each one's undisturbed answer."""

    def __init__(self, client: SegueClient, prompts: Sequence[str], answer_tokens: int) -> None:
        self._client = client
        self._prompts = prompts
        self._answer_tokens = answer_tokens
        self.expected: dict[str, list[int]] = {}
        self.answered = 0
        self.changed: list[tuple[list[int], list[int]]] = []
        self.longest_gap_s = 0.0

    async def learn(self) -> None:
        """Ask each prompt once, alone."""
        for prompt in self._prompts:
            self.expected[prompt] = await self._ask(prompt)

    @asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """While the block runs each prompt is asked again as soon as it is answered; at its end all are answered."""
        going = asyncio.Event()
        going.set()
        async with asyncio.TaskGroup() as tasks:
            for prompt in self._prompts:
                tasks.create_task(self._go_on(prompt, going))
            try:
                yield
            finally:
                going.clear()

    async def more(self, answers: int) -> None:
        """Until so many more have come to their end."""
        enough = self.answered + answers
        while self.answered < enough:
            await asyncio.sleep(0.01)

    async def _go_on(self, prompt: str, going: asyncio.Event) -> None:
        while going.is_set():
            tokens = await self._ask(prompt)
            self.answered += 1
            if tokens != self.expected[prompt]:
                self.changed.append((self.expected[prompt], tokens))

    async def _ask(self, prompt: str) -> list[int]:
        tokens: list[int] = []
        last_s = 0.0
        stream = self._client.stream(prompt, max_tokens=self._answer_tokens, temperature=0, ignore_eos=True)
        async for part in stream:
            tokens += part.token_ids
            now_s = time.monotonic()
            if self.expected and last_s:
                self.longest_gap_s = max(self.longest_gap_s, now_s - last_s)
            last_s = now_s
        return tokens
