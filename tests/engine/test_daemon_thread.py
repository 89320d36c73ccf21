from __future__ import annotations

import asyncio
import threading

import pytest

from segue.engine.daemon_thread import on_daemon_thread


async def test_it_gives_what_the_call_gives_from_a_daemon_thread() -> None:
    thread = await on_daemon_thread(threading.current_thread, "load")
    assert (thread.name, thread.daemon) == ("load", True)


async def test_it_raises_what_the_call_raises() -> None:
    def fail() -> None:
        raise LookupError("no such model")

    with pytest.raises(LookupError, match="no such model"):
        await on_daemon_thread(fail, "load")


def test_the_loops_end_does_not_wait_for_a_call_that_was_given_up() -> None:
    gate, ended = threading.Event(), threading.Event()

    def load() -> None:
        gate.wait(30)
        ended.set()

    async def give_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await on_daemon_thread(load, "load")

    asyncio.run(give_up())
    assert not ended.is_set()
    gate.set()
    assert ended.wait(30)
