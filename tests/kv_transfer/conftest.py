from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
import torch

from segue.kv_transfer import chunks, grpc_puller
from tests.kv_transfer.ends import BLOCK_TOKENS, Consumer, Producer, WatchedCache, tensors

MakeProducer = Callable[..., Producer]
MakeConsumer = Callable[..., Consumer]


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks a chunk, so that small caches travel in many."""
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 2 * 2 * BLOCK_TOKENS * 5 * 4 + 1)


@pytest.fixture
def make_producer() -> Iterator[MakeProducer]:
    made: list[Producer] = []

    def make(**parts: object) -> Producer:
        made.append(Producer(**parts))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for producer in made:
        producer.stop()


@pytest.fixture
def make_consumer(monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeConsumer]:
    woken = threading.Event()
    monkeypatch.setattr(grpc_puller, "wake_engine", woken.set)
    made: list[Consumer] = []

    def make(
        own: dict[str, torch.Tensor] | None = None, block_tokens: int = BLOCK_TOKENS, model: str = "model"
    ) -> Consumer:
        own = own or tensors()
        made.append(Consumer(WatchedCache(own, block_tokens, model), own, woken))
        return made[-1]

    yield make
    for consumer in made:
        consumer.puller.close()


@pytest.fixture
def producer(make_producer: MakeProducer) -> Producer:
    return make_producer()


@pytest.fixture
def consumer(make_consumer: MakeConsumer) -> Consumer:
    return make_consumer()
