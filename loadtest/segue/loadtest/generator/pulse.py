"""How late this process's event loop wakes: what is measured on it is late by as much."""

from __future__ import annotations

import asyncio
import time
from array import array
from types import TracebackType
from typing import Self

from segue.loadtest.measure.lag import GeneratorLoad

_PERIOD_S = 0.02


class Pulse:
    """Context manager; afterwards ``load`` says how the process fared in between."""

    def __init__(self) -> None:
        self._lags_s = array("d")

    def __enter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        self._started_s = time.monotonic()
        self._cpu_s = time.process_time()
        self._set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._cpu_s = time.process_time() - self._cpu_s
        self._wall_s = time.monotonic() - self._started_s

    @property
    def load(self) -> GeneratorLoad:
        return GeneratorLoad(tuple(self._lags_s), self._cpu_s, self._wall_s)

    def _set(self) -> None:
        self._due_s = self._loop.time() + _PERIOD_S
        self._timer = self._loop.call_at(self._due_s, self._beat)

    def _beat(self) -> None:
        self._lags_s.append(max(0.0, self._loop.time() - self._due_s))
        self._set()
