from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from segue.decode_worker.role import DecodeRole
from segue.prefill_worker.role import PrefillRole
from tests.worker.fakes import FakeProducer
from tests.worker.runtimes import Worker


@pytest.fixture
async def tasks() -> AsyncIterator[asyncio.TaskGroup]:
    async with asyncio.TaskGroup() as group:
        yield group


@pytest.fixture
async def worker(tasks: asyncio.TaskGroup) -> AsyncIterator[Worker]:
    made = Worker(tasks, PrefillRole())
    async with made.releases:
        yield made.ready()


@pytest.fixture
async def decode_worker(tasks: asyncio.TaskGroup) -> AsyncIterator[Worker]:
    made = Worker(tasks, DecodeRole())
    async with made.releases:
        yield made.ready()


@pytest.fixture
async def producer() -> AsyncIterator[FakeProducer]:
    async with FakeProducer() as made:
        yield made
