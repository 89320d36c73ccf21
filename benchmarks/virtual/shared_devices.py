"""Simulated engines that take each other's time: more of them than devices."""

from __future__ import annotations

import time

from segue.engine.settings import EngineSettings
from segue.engine.simulated.engine import SimulatedEngine
from segue.engine.simulated.kv_peers import KvPeers
from segue.engine.simulated.scheduler import Step


class SharedDevices:
    """Whoever begins a step has its part for the whole step; what begins and ends meanwhile doesn't change it."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._busy_until_s: dict[object, float] = {}

    def step_s(self, user: object, alone_s: float) -> float:
        now_s = time.monotonic()
        others = sum(until_s > now_s for other, until_s in self._busy_until_s.items() if other is not user)
        seconds = alone_s * max(1.0, (1 + others) / self._count)
        self._busy_until_s[user] = now_s + seconds
        return seconds


class SharingEngine(SimulatedEngine):
    def __init__(self, settings: EngineSettings, peers: KvPeers, devices: SharedDevices) -> None:
        super().__init__(settings, peers)
        self._devices = devices

    def _step_s(self, step: Step) -> float:
        return self._devices.step_s(self, super()._step_s(step))
