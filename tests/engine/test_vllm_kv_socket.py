"""vLLM's events over vLLM's own sockets, and what is done about those that get lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from vllm.config import KVEventsConfig
from vllm.distributed.kv_events import EventPublisherFactory, KVEventBatch, ZmqEventPublisher

from segue.base.block_hash import block_hashes
from segue.engine.vllm_kv_events import KvEventNames
from segue.engine.vllm_kv_socket import SubscribedEvents
from segue.proto.worker_pb2 import KvEvent
from tests.engine.test_vllm_kv_events import BLOCK, block_stored

CLEARED = KvEvent(cleared=True)


class Core:
    """vLLM's publisher, and what is told of its batches: one block each, all of one prompt."""

    def __init__(self, config: KVEventsConfig) -> None:
        publisher = EventPublisherFactory.create(config)
        assert isinstance(publisher, ZmqEventPublisher)
        self.publisher = publisher
        self.published = 0
        self.told: list[KvEvent] = []

    def publish(self) -> None:
        self.published += 1
        block = self.published
        stored = block_stored([block], [block] * BLOCK, parent=block - 1 or None)
        self.publisher.publish(KVEventBatch(ts=0.0, events=[stored]))

    async def publish_until_told(self) -> None:
        """A subscription takes a moment to reach the publisher; what is published by then gets lost."""
        async with asyncio.timeout(60):
            while not self.told:
                self.publish()
                await asyncio.sleep(0.02)
            while len(self.chain()) < self.published and CLEARED not in self.told:
                await asyncio.sleep(0.02)

    def chain(self) -> list[int]:
        return [name for event in self.told for name in event.stored.blocks]


@asynccontextmanager
async def losing(lost: int, *, replay_s: float = 30.0, **fields: Any) -> AsyncIterator[Core]:
    """A core that has published ``lost`` batches before its subscriber is there."""
    events = SubscribedEvents(replay_s)
    config = events.config()
    for name, value in fields.items():
        setattr(config, name, value)
    core = Core(config)
    reading: asyncio.Task[None] | None = None
    try:
        for _ in range(lost):
            core.publish()
        await asyncio.to_thread(core.publisher._event_queue.join)
        events.connect()
        reading = asyncio.create_task(events.read(KvEventNames(BLOCK), core.told.extend))
        await core.publish_until_told()
        yield core
    finally:
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await asyncio.to_thread(core.publisher.shutdown)
        events.close()


async def test_batches_that_are_lost_are_asked_for_again() -> None:
    async with losing(3) as core:
        tokens = [block for block in range(1, core.published + 1) for _ in range(BLOCK)]
        assert core.chain() == block_hashes(tokens, BLOCK)
        assert CLEARED not in core.told


async def test_what_vllm_has_no_more_clears_what_was_known() -> None:
    async with losing(5, buffer_steps=2) as core:
        assert core.told[0] == CLEARED


async def test_without_an_answer_what_was_known_is_cleared() -> None:
    async with losing(3, replay_s=0.05, replay_endpoint=None) as core:
        assert core.told[0] == CLEARED
