"""The client's process: one for a measurement, so that nothing of it counts in what is measured."""

from __future__ import annotations

import asyncio
import multiprocessing as mp
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import uvloop
from front.counted import Ask, Counters, Tally
from front.grpc_client import open_calls
from front.sse_client import open_readers

_TELL_INTERVAL_S = 0.02


class ClientFailedError(RuntimeError):
    """The client could not do what it was asked; the message holds what the server said."""


class Client:
    """A client that runs; its figures so far, and its samples once it has ended."""

    def __init__(self, ask: Ask) -> None:
        context = mp.get_context("spawn")
        self.counters = Counters()
        self._ask = ask
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_main, args=(ask, self.counters, sender), daemon=True)
        self._process.start()
        sender.close()

    def wait_begun(self, requests: int, limit_s: float = 20.0) -> None:
        """Until so many requests have had their first token. Raises ClientFailedError."""
        self._wait(lambda: self.counters.read()[1] >= requests, f"{requests} requests begun", limit_s)

    def end(self) -> dict[str, Any]:
        """Stop it; what :meth:`Tally.result` gives. Raises ClientFailedError if a request failed."""
        self.counters.stop.set()
        if not self._receiver.poll(10):
            raise ClientFailedError("the client did not end within 10 s")
        result: dict[str, Any] = self._receiver.recv()
        self._process.join(5)
        if result["failed"]:
            raise ClientFailedError(f"{result['failed']} requests failed, the last one with {result['error']!r}")
        return result

    def kill(self) -> None:
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _wait(self, condition: Callable[[], bool], what: str, limit_s: float) -> None:
        deadline_s = time.monotonic() + limit_s
        while not condition():
            if self.counters.read()[3]:
                self.end()
            if time.monotonic() > deadline_s or not self._process.is_alive():
                raise ClientFailedError(f"no {what} within {limit_s:g} s: {self.counters.read()}")
            time.sleep(0.01)


@contextmanager
def running_client(ask: Ask) -> Iterator[Client]:
    client = Client(ask)
    try:
        yield client
    finally:
        client.kill()


def _main(ask: Ask, counters: Counters, sender: Connection) -> None:
    tally = Tally()
    uvloop.run(_run(ask, counters, tally))
    sender.send(tally.result())


async def _run(ask: Ask, counters: Counters, tally: Tally) -> None:
    await (open_readers if ask.api == "http" else open_calls)(ask, tally)
    while not counters.stop.is_set():
        counters.write(tally)
        await asyncio.sleep(_TELL_INTERVAL_S)
