"""Calls that can't be interrupted, on threads that nothing waits for."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from functools import partial
from typing import TypeVar

T = TypeVar("T")


async def on_daemon_thread(call: Callable[[], T], name: str) -> T:
    """``call()``, on a thread of its own.

    Unlike with ``asyncio.to_thread``, a caller that is cancelled leaves nothing that the event loop's end waits for.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - it is raised where the call was made.
            _post(loop, partial(_fail, future, error))
        else:
            _post(loop, lambda: None if future.done() else future.set_result(result))

    threading.Thread(target=run, name=name, daemon=True).start()
    return await future


def _fail(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def _post(loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(call)
