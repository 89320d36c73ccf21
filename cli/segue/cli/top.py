"""``segue top``: looks at the fleet, drawn as they come, until q or Ctrl-C."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from segue.base.errors import Unavailable
from segue.cli.fleet_screen import top_screen
from segue.client import Connection, FleetClient

_RETRY_S = 1.0


async def watch(connection: Connection, console: Console, interval_s: float) -> None:
    """Until the user leaves. A router that is away is waited for; a refusal is raised (SegueError)."""
    leave = asyncio.Event()
    with _keys(leave), Live(console=console, screen=True, auto_refresh=False) as live:
        drawing = asyncio.ensure_future(_draw(connection, live, interval_s))
        leaving = asyncio.ensure_future(leave.wait())
        try:
            await asyncio.wait((drawing, leaving), return_when=asyncio.FIRST_COMPLETED)
        finally:
            drawing.cancel()
            leaving.cancel()
            results = await asyncio.gather(drawing, leaving, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _draw(connection: Connection, live: Live, interval_s: float) -> None:
    async with FleetClient(connection) as client:
        while True:
            try:
                async for state in client.watch(interval_s):
                    live.update(top_screen(state, live.console.width, live.console.height), refresh=True)
            except Unavailable as error:
                live.update(Text(f"{connection.address}: {error.message}; trying again"), refresh=True)
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
