"""``segue top``: looks at the fleet, drawn as they come, until q or Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from segue.base.errors import Unavailable
from segue.cli.fleet_screen import top_screen
from segue.client import Connection, FleetClient
from segue.proto.fleet_pb2 import FleetState
from segue.proto.pools_pb2 import PoolsState

_RETRY_S = 1.0
# Who scales decides every few seconds.
_POOLS_S = 2.0

AskPools = Callable[[], Awaitable[PoolsState | None]]


async def watch(connection: Connection, console: Console, interval_s: float, ask_pools: AskPools | None = None) -> None:
    """Until the user leaves. A router that is away is waited for; a refusal is raised (SegueError).

    ``ask_pools`` gives what whoever manages the pools says, None while that isn't to be had.
    """
    leave = asyncio.Event()
    with _keys(leave), Live(console=console, screen=True, auto_refresh=False) as live:
        screen = _Screen(live)
        work = [_draw(connection, screen, interval_s), *([] if ask_pools is None else [screen.follow(ask_pools)])]
        tasks = [asyncio.ensure_future(leave.wait()), *map(asyncio.ensure_future, work)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


class _Screen:
    """What is drawn: the router's looks as they come, beside what was last heard of the pools."""

    def __init__(self, live: Live) -> None:
        self._live = live
        self._pools: PoolsState | None = None

    async def follow(self, ask_pools: AskPools) -> None:
        """Never returns."""
        while True:
            self._pools = await ask_pools()
            await asyncio.sleep(_POOLS_S)

    def show(self, state: FleetState) -> None:
        console = self._live.console
        self._live.update(top_screen(state, console.width, console.height, self._pools), refresh=True)

    def say(self, words: str) -> None:
        self._live.update(Text(words), refresh=True)


async def _draw(connection: Connection, screen: _Screen, interval_s: float) -> None:
    async with FleetClient(connection) as client:
        while True:
            try:
                async for state in client.watch(interval_s):
                    screen.show(state)
            except Unavailable as error:
                screen.say(f"{connection.address}: {error.message}; trying again")
            await asyncio.sleep(_RETRY_S)


@contextmanager
def _keys(leave: asyncio.Event) -> Iterator[None]:
    """Have q set the event, as soon as it is pressed. Without a terminal to read from, Ctrl-C alone leaves."""
    if not sys.stdin.isatty():
        yield
        return
    import termios
    import tty

    loop, terminal = asyncio.get_running_loop(), sys.stdin.fileno()

    def read() -> None:
        if sys.stdin.read(1) in {"q", "Q", ""}:
            leave.set()

    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)
