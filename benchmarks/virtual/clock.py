"""An event loop on which time passes only when nobody has anything to do: hours of a simulation in seconds, and the
same ones each time."""

from __future__ import annotations

import asyncio
import logging
import selectors
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from unittest.mock import patch

import structlog

_Result = TypeVar("_Result")
_START_S = 1000.0  # Not 0, which stands for "never" here and there.


class _Jumps(selectors.DefaultSelector):
    """Waits by moving the clock on."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = _START_S

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout != 0:
            if timeout is None:
                raise RuntimeError("everybody waits, and nothing is to happen any more")
            self.now_s += timeout
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """Without threads, sockets and processes: what comes from outside would come at no time."""

    def __init__(self) -> None:
        self._jumps = _Jumps()
        super().__init__(self._jumps)

    def time(self) -> float:
        return self._jumps.now_s


def run_virtually(main: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
    """Run to the end; ``time.monotonic`` is the loop's clock meanwhile."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        loop = runner.get_loop()
        with patch.object(time, "monotonic", loop.time):
            return runner.run(main())


def quiet() -> None:
    """No lines of workers that come and go."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
