"""A whole router on loopback (HTTP, gRPC, hub) with scripted workers, and what must be true of it afterwards."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
import pytest_asyncio
import structlog
from aiohttp import web
from structlog.typing import EventDict

from segue.engine.embedded_model import ensure_embedded_model
from segue.proto.sampling_pb2 import SamplingParams
from segue.router.limits import Limits
from segue.router.openai.server import make_app, make_runner
from segue.router.text.tokenizer import TextCodec
from tests.router.core.scripted import EOS, Router, running_router, until
from tests.router.core.scripted_answers import counting


def short(prompt: Sequence[int], sampling: SamplingParams) -> list[int]:
    """At most six tokens, then the end: long answers would only cost time."""
    return [*counting(prompt, SamplingParams(max_tokens=min(sampling.max_tokens, 6), seed=sampling.seed)), EOS]


@pytest.fixture(scope="session")
def codec() -> TextCodec:
    return TextCodec.load(str(ensure_embedded_model()))


@dataclass
class Front:
    """Where the router listens, and what it has complained of."""

    router: Router
    http_port: int
    files: int = field(default_factory=lambda: len(os.listdir("/proc/self/fd")))
    faults: list[EventDict] = field(default_factory=list)
    unhandled: list[dict[str, Any]] = field(default_factory=list)

    async def assert_sound(self) -> None:
        """No request is open, nothing was logged as a fault of ours, no task ended unseen."""
        await until(lambda: not self.router.dispatcher.running_requests)
        self.router.assert_idle()
        assert not self.unhandled
        # Connections that clients keep open, and no more however many there were.
        assert len(os.listdir("/proc/self/fd")) <= self.files + 64
        assert not self.faults, self.faults[:3]


# What gRPC logs of a call whose client leaves, or whose deadline passes, in the moment that it is begun or answered.
_CLIENT_HAS_LEFT = {"CancelledError", "ExecuteBatchError"}


class _Errors(logging.Handler):
    """What gRPC, aiohttp and asyncio log as errors: exceptions that got as far as them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        if record.name == "grpc._cython.cygrpc" and kind is not None and kind.__name__ in _CLIENT_HAS_LEFT:
            return
        self.texts.append(f"{record.name}: {self.format(record)}")


@asynccontextmanager
async def running_front(codec: TextCodec) -> AsyncIterator[Front]:
    loop = asyncio.get_running_loop()
    libraries = _Errors()
    logging.getLogger().addHandler(libraries)
    with structlog.testing.capture_logs() as logs:
        async with running_router(codec, max_concurrent_requests=10_000) as router:
            await router.attach_pair(answer=short)
            limits = Limits(default_timeout_s=20.0)
            runner = make_runner(make_app(router.dispatcher, router.models, limits), limits, 1.0)
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            made = Front(router, runner.addresses[0][1])
            loop.set_exception_handler(lambda _, context: made.unhandled.append(context))
            try:
                yield made
                made.faults += [entry for entry in logs if entry["log_level"] in {"error", "critical"}]
                made.faults += [{"library": text} for text in libraries.texts]
                await made.assert_sound()
            finally:
                logging.getLogger().removeHandler(libraries)
                loop.set_exception_handler(None)
                await runner.cleanup()


@pytest_asyncio.fixture
async def front(codec: TextCodec) -> AsyncIterator[Front]:
    async with running_front(codec) as running:
        yield running


@pytest.fixture
def served(codec: TextCodec) -> Iterator[str]:
    """The URL of a front on a thread of its own, for tests that block."""
    with asyncio.Runner() as runner:
        ready: queue.SimpleQueue[str] = queue.SimpleQueue()
        over = asyncio.Event()

        async def serve() -> None:
            async with running_front(codec) as running:
                ready.put(f"http://127.0.0.1:{running.http_port}")
                await over.wait()

        with ThreadPoolExecutor(1) as thread:
            serving = thread.submit(runner.run, serve())
            yield ready.get(timeout=30)
            runner.get_loop().call_soon_threadsafe(over.set)
            serving.result(30)
